"""The benchmark of image sizes: every case is measured, told, and drawn."""

import json

from PIL import Image

from benchmarks import image_size
from benchmarks.image_size import run


def test_a_case_takes_time():
    assert run("vim", "tiny", 32, "bf16", True, 1) > 0


def test_the_command_tells_and_draws_every_case(tmp_path, monkeypatch, capsys):
    asked = []

    def pretend(function, encoder, size, side, precision, trains, repeats):
        asked.append((encoder, side, trains))
        return side / 1000, 2 * side

    monkeypatch.setattr(image_size, "peak_memory_of", pretend)
    image_size.main(["--quick", "--plot", str(tmp_path / "new" / "a.png")])
    sides = image_size.QUICK_SIDES
    assert sorted(asked) == sorted((e, s, t) for e in image_size.ENCODERS for s in sides for t in (False, True))
    printed = capsys.readouterr().out
    assert "ViT              224      0.224       0.224          448           448" in printed
    assert "Vision Mamba     384      0.384       0.384          768           768" in printed
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.width > 1000
    content = json.loads((tmp_path / "new" / "a.json").read_text())
    assert len(content["costs"]) == 2 * len(sides) and content["size"] == "small"
