"""Where the joints are: a walking skeleton in body units, turned and projected to pixels.

Body space: x to the person's left, y down from the top of the head (0) to the sole (1),
z forward. The unit is the body height.
"""

import math
import random
from dataclasses import dataclass

from dataset.synthetic.canvas import Point
from dataset.synthetic.person import Person

VIEWS = ("front", "back", "side")
GROUND = 0.952  # height of the lower ankle
HIP, KNEE, SHOULDER = 0.5, 0.232, 0.207
UPPER_ARM, FOREARM, SHIN = 0.14, 0.15, 0.222


@dataclass(frozen=True)
class Pose:
    """Angles in radians; yaw 0 faces the camera, pi/2 faces the right edge of the image."""

    view: str
    yaw: float
    stride: float
    phase: float
    arm_swing: float
    arm_out: float
    right_bend: float
    left_bend: float


@dataclass(frozen=True)
class Joint:
    """A projected joint: pixels, and depth towards the camera in body units."""

    x: float
    y: float
    depth: float

    @property
    def at(self) -> Point:
        return self.x, self.y


def sample_pose(rng: random.Random, person: Person) -> Pose:
    """A walking or standing pose seen from a random side."""
    view = rng.choices(VIEWS, weights=(4, 3, 3))[0]
    degrees = {"front": rng.gauss(0, 16), "back": 180 + rng.gauss(0, 16), "side": 90 + rng.gauss(0, 12)}[view]
    yaw = math.radians(degrees)
    if view == "side" and rng.random() < 0.5:
        yaw = -yaw
    moving = rng.random() < 0.75
    holds = person.item is not None and person.item.kind in ("phone", "book", "cup")
    return Pose(
        view=view,
        yaw=yaw,
        stride=rng.uniform(0.25, 0.5) if moving else rng.uniform(0.0, 0.08),
        phase=rng.uniform(0, math.tau),
        arm_swing=rng.uniform(0.15, 0.5) if moving else rng.uniform(0.0, 0.1),
        arm_out=rng.uniform(0.1, 0.24),
        right_bend=rng.uniform(1.5, 2.1) if holds else rng.uniform(0.05, 0.35),
        left_bend=rng.uniform(0.05, 0.45),
    )


class Skeleton:
    """Joints of one person in one pose, in canvas pixels."""

    def __init__(
        self, person: Person, pose: Pose, centre: float, top: float, unit: float, *, smallest: float = 0
    ) -> None:
        """centre: x of the body axis; top: y of the top of the head; unit: pixels per body height.

        smallest: body heights that a detail measures across at least.
        """
        self.pose = pose
        self.unit = unit
        self.smallest = smallest
        self._centre, self._top = centre, top
        self.cos, self.sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.girth = {"slim": 0.9, "average": 1.0, "heavy": 1.2}[person.build]
        man = person.gender == "man"
        self.shoulder_half = (0.122 if man else 0.102) * (0.5 + 0.5 * self.girth)
        self.chest_half = (0.108 if man else 0.093) * self.girth
        self.waist_half = (0.092 if man else 0.074) * self.girth**1.5
        self.hip_half = (0.092 if man else 0.098) * self.girth
        self._set_legs()
        self._set_arms()

    def point(self, x: float, y: float, z: float = 0.0) -> Joint:
        """Project a body-space point."""
        across = x * self.cos + z * self.sin
        return Joint(self._centre + across * self.unit, self._top + y * self.unit, z * self.cos - x * self.sin)

    def body(self, x: float, y: float, z: float = 0.0) -> Joint:
        """Project a point of the torso or head, which sink with a long stride."""
        return self.point(x, y + self.sink, z)

    def half(self, wide: float, deep: float) -> float:
        """Half the projected width, in pixels, of an elliptic cross-section."""
        return math.hypot(wide * self.cos, deep * self.sin) * self.unit

    def enlarged(self, across: float) -> float:
        """How many times larger than by nature a detail is drawn that is `across` body heights wide."""
        return max(1.0, self.smallest / across)

    @property
    def facing(self) -> float:
        """1 faces the camera, 0 side view, -1 shows the back."""
        return self.cos

    def far_first(self) -> tuple[str, str]:
        """The body sides, the one away from the camera first."""
        return ("left", "right") if self.sin > 0 else ("right", "left")

    def _set_legs(self) -> None:
        pose, legs = self.pose, {}
        for side, sign in (("left", 1), ("right", -1)):
            swing = pose.stride * math.sin(pose.phase) * sign
            bend = max(0.0, -swing) * 0.9
            knee_y, knee_z = HIP + KNEE * math.cos(swing), KNEE * math.sin(swing)
            ankle_y = knee_y + SHIN * math.cos(swing - bend)
            ankle_z = knee_z + SHIN * math.sin(swing - bend)
            legs[side] = (sign, knee_y, knee_z, ankle_y, ankle_z)
        # The lower foot stands on the ground: a stride lowers the hips, not the feet.
        self.sink = GROUND - max(leg[3] for leg in legs.values())
        self.hip, self.knee, self.ankle, self.toe, self.heel = {}, {}, {}, {}, {}
        for side, (sign, knee_y, knee_z, ankle_y, ankle_z) in legs.items():
            x = sign * 0.05 * self.girth
            self.hip[side] = self.point(x, HIP + self.sink)
            self.knee[side] = self.point(x * 1.05, knee_y + self.sink, knee_z)
            self.ankle[side] = self.point(x * 1.1, ankle_y + self.sink, ankle_z)
            self.heel[side] = self.point(x * 1.1, ankle_y + self.sink + 0.018, ankle_z - 0.018)
            self.toe[side] = self.point(x * 1.25, ankle_y + self.sink + 0.024, ankle_z + 0.062)

    def _set_arms(self) -> None:
        pose = self.pose
        self.shoulder, self.elbow, self.wrist = {}, {}, {}
        for side, sign, bend in (("left", 1, pose.left_bend), ("right", -1, pose.right_bend)):
            swing = -pose.arm_swing * math.sin(pose.phase) * sign
            if bend > 1:
                swing = 0.25
            x, y = sign * (self.shoulder_half - 0.02), SHOULDER + self.sink
            self.shoulder[side] = self.point(x, y)
            x += sign * UPPER_ARM * math.sin(pose.arm_out)
            y += UPPER_ARM * math.cos(swing) * math.cos(pose.arm_out)
            z = UPPER_ARM * math.sin(swing)
            self.elbow[side] = self.point(x, y, z)
            outward = 0.05
            if bend > 1:  # what is held before the chest is not seen from behind, beside it it is
                outward = 0.4 if self.smallest else -0.25
            x += sign * FOREARM * outward
            y += FOREARM * math.cos(swing + bend)
            z += FOREARM * math.sin(swing + bend)
            self.wrist[side] = self.point(x, y, z)
