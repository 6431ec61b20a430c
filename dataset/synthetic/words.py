"""Words and short templates of captions. Repeating an entry makes it likelier."""

SUBJECTS = {
    "man": ("man", "man", "man", "guy", "male", "male pedestrian", "young man"),
    "woman": ("woman", "woman", "woman", "lady", "female", "female pedestrian", "young woman"),
}
PRONOUNS = {"man": ("he", "his"), "woman": ("she", "her")}

# kind of thing: (nouns, plural). A plural noun takes no article, or "a pair of".
NOUNS: dict[str, tuple[tuple[str, ...], bool]] = {
    "t-shirt": (("t-shirt", "t-shirt", "tee shirt", "shirt"), False),
    "shirt": (("shirt", "shirt", "button-up shirt", "collared shirt"), False),
    "jacket": (("jacket", "jacket", "zip-up jacket"), False),
    "coat": (("coat", "coat", "long coat", "overcoat"), False),
    "hoodie": (("hoodie", "hoodie", "hooded sweatshirt"), False),
    "sweater": (("sweater", "sweater", "pullover", "jumper"), False),
    "vest": (("vest", "vest", "puffer vest"), False),
    "blouse": (("blouse", "blouse", "top"), False),
    "jeans": (("jeans", "jeans", "denim jeans"), True),
    "trousers": (("pants", "pants", "trousers", "slacks"), True),
    "shorts": (("shorts",), True),
    "leggings": (("leggings", "leggings", "tights"), True),
    "skirt": (("skirt", "knee length skirt", "short skirt"), False),
    "long skirt": (("long skirt", "long skirt", "ankle length skirt"), False),
    "dress": (("dress", "dress", "knee length dress"), False),
    "sneakers": (("sneakers", "sneakers", "shoes", "running shoes", "tennis shoes"), True),
    "boots": (("boots", "boots", "ankle boots"), True),
    "sandals": (("sandals",), True),
    "dress shoes": (("dress shoes", "shoes", "leather shoes"), True),
    "backpack": (("backpack", "backpack", "rucksack", "bookbag"), False),
    "shoulder bag": (("shoulder bag", "messenger bag", "cross body bag"), False),
    "handbag": (("handbag", "handbag", "purse"), False),
    "suitcase": (("suitcase", "suitcase", "rolling suitcase"), False),
    "shopping bag": (("shopping bag", "bag", "carrier bag"), False),
    "glasses": (("glasses", "eyeglasses"), True),
    "sunglasses": (("sunglasses", "dark sunglasses"), True),
    "cap": (("cap", "baseball cap"), False),
    "beanie": (("beanie", "knit cap", "woolen hat"), False),
    "hat": (("hat", "brimmed hat", "wide hat"), False),
    "hood": (("hood",), False),
    "scarf": (("scarf",), False),
    "umbrella": (("umbrella", "folded umbrella"), False),
    "phone": (("phone", "cell phone", "mobile phone"), False),
    "book": (("book",), False),
    "cup": (("cup", "coffee cup"), False),
}

PATTERN_BEFORE = {
    "horizontal stripes": ("striped", "horizontally striped"),
    "vertical stripes": ("striped", "vertically striped"),
    "checked": ("checkered", "plaid", "checked"),
    "dotted": ("dotted", "polka dot", "spotted"),
}
PATTERN_AFTER = {
    "horizontal stripes": ("with {} horizontal stripes", "with {} stripes"),
    "vertical stripes": ("with {} vertical stripes", "with {} stripes"),
    "checked": ("with {} checks", "with a {} checkered pattern"),
    "dotted": ("with {} dots", "with {} polka dots"),
    "logo": ("with a {} logo on the chest", "with a {} print on the front", "with a {} logo"),
}

HAIR_SHAPES = {
    "short": ("short {} hair", "short {} hair", "{} hair cut short"),
    "medium": ("shoulder length {} hair", "medium length {} hair"),
    "long": ("long {} hair", "long straight {} hair", "long flowing {} hair"),
    "curly": ("curly {} hair", "a {} afro", "thick curly {} hair"),
    "ponytail": ("a {} ponytail", "a long {} ponytail", "{} hair tied in a ponytail"),
    "tied back": ("{} hair tied back", "{} hair pulled back"),
    "bun": ("{} hair tied in a bun", "{} hair pulled up in a bun", "a {} hair bun"),
    "bald": ("a bald head", "a shaved head"),
}

HOLDS_BAG = {
    "backpack": ("is carrying {} on {his} back", "carries {}", "has {} on {his} back", "is wearing {}"),
    "shoulder bag": ("has {} across {his} body", "is carrying {}", "has {} on {his} shoulder"),
    "handbag": ("is carrying {}", "is holding {} in {his} hand", "carries {} in {his} left hand"),
    "suitcase": ("is pulling {}", "is rolling {} beside {him}", "has {} with {him}"),
    "shopping bag": ("is carrying {}", "is holding {} in {his} hand"),
}
HOLDS_ITEM = {
    "umbrella": ("is holding {}", "carries {} in {his} hand", "has {} in {his} right hand"),
    "phone": ("is holding {}", "is looking at {}", "has {} in {his} hand"),
    "book": ("is holding {}", "is reading {}", "has {} in {his} right hand"),
    "cup": ("is holding {}", "has {} in {his} hand", "carries {}"),
}

MOTIONS = {
    ("front", True): ("walking towards the camera", "walking forward", "facing the camera while walking"),
    ("front", False): ("standing and facing the camera", "standing still facing forward"),
    ("back", True): ("walking away from the camera", "walking away", "seen from behind while walking"),
    ("back", False): ("standing with {his} back to the camera", "facing away from the camera"),
    ("side", True): ("walking to the side", "walking by, seen from the side", "walking past the camera"),
    ("side", False): ("standing sideways", "standing in profile"),
}

VAGUE = (
    "The {subject} is {motion} with {his} head held up and {his} arms relaxed, dressed in everyday clothes.",
    "A {subject} in casual clothing is {motion}, and {he} seems to be on {his} way without any hurry.",
    "This is a {subject} of {build} build who is {motion}, wearing a simple outfit for the weather today.",
    "The {subject} has a {build} build and is {motion} while looking at something outside of the picture.",
)
BUILDS = {"slim": ("slim", "thin"), "average": ("medium", "average"), "heavy": ("heavy", "large")}
