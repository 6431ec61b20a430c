"""What diagrams are drawn from."""

from evaluation.drawing.figures import draw_estimates, new_figure, reach
from evaluation.statistics import Estimate


def test_an_interval_reaches_to_both_sides_of_its_mean():
    below, above = reach([Estimate(50.0, 40.0, 70.0, 9)])
    assert (below, above) == ([10.0], [20.0])


def test_a_mean_that_rounding_puts_outside_its_interval_is_drawn():
    one = Estimate(11.111111111111112, 11.111111111111114, 11.111111111111114, 6)  # six times the same value
    assert reach([one])[0] == [0.0]
    draw_estimates(new_figure(2, 2).add_subplot(), [1.0], {"full": [one]})
