"""Words of captions about people, by what they name. One form a word, as captions of data sets spell it, typing errors
aside."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _with_plurals(text: str) -> frozenset[str]:
    """The words, and each with an s behind it (es after a hiss)."""
    words = text.split()
    return frozenset([*words, *(word + ("es" if word.endswith(("s", "sh", "ch")) else "s") for word in words)])


# The English model of spaCy calls many colours nouns ("grey jeans", "maroon pants"). Before a noun they are
# adjectives: recall rose from 0.90 to 0.96 on 25 captions written for the purpose. The same captions
# suggested the rule, so expect less elsewhere.
COLOURS = _words(
    "amber aqua azure beige black blonde blue bronze brown burgundy charcoal chestnut coral cream crimson cyan emerald"
    " fuchsia gold golden gray green grey indigo ivory khaki lavender lilac lime magenta maroon mauve mint mustard navy"
    " ochre olive orange peach pink plum purple red rose ruby rust salmon scarlet silver tan taupe teal turquoise"
    " vermilion violet white yellow"
)

# What says how a garment looks; the tagger calls some of them nouns or verbs.
PATTERNS = _words(
    "argyle camo camouflage checkered checked dotted floral flowered graphic heathered multicolored multicoloured"
    " patterned plaid polka printed striped stripped stripy tartan two-tone"
)
MATERIALS = _words(
    "canvas corduroy cotton denim fleece fur knit knitted lace leather linen satin silk suede velvet wool"
)
LOOKS = _words(
    "baggy big blond bright casual colored coloured collared cropped curly dark faded fitted flat formal ginger haired"
    " high hooded large light long loose low medium mid mini neon pale plain pleated royal ruffled sheer shiny short"
    " shoulder-length skinny sleeved sleeveless slim small straight tall thick thin tight wavy wide"
)
# Verbs in -ing that stand before a garment and describe it.
USES = _words(
    "dancing fitting flowing hiking jogging looking matching riding rolling running shopping sleeping walking"
)
# Verbs in -ed that say what a person does and not how a garment looks.
ACTIONS = _words("carried covered dressed followed looked paired placed pushed seemed stopped turned used walked")

# Garments and what else people wear or carry, by where it is.
UPPER = _with_plurals(
    "blazer blouse bra camisole cardigan coat hoodie hoody jacket jersey jumper pullover raincoat shawl shirt"
    " sweater sweatshirt tee top tshirt tunic turtleneck undershirt vest windbreaker"
)
LOWER = _with_plurals(
    "bottom capri jean jegging jogger khaki legging overall pant shorts skirt slack sweatpant tight trouser"
) - _words("khaki tight")
WHOLE = _with_plurals("apron costume dress gown jumpsuit kimono outfit robe romper suit swimsuit tracksuit tux uniform")
FEET = _with_plurals(
    "boot clog converse flat flipflop flop footwear heel loafer moccasin pump sandal shoe slipper sneaker sock stocking"
    " trainer wedge"
) - _words("flat pump")
HEAD = _with_plurals(
    "beanie beard bun cap eyeglass glasses goatee hair haircut hairstyle hat headband headphone helmet mask moustache"
    " mustache ponytail sunglasses visor wig"
)
SMALL = _with_plurals(
    "belt bracelet earring glove lanyard necklace necktie ring scarf suspender tie watch wristband wristwatch"
) | _words("scarves")
BAGS = _with_plurals(
    "backpack bag basket briefcase clutch handbag luggage pack pocketbook purse rucksack satchel suitcase tote wallet"
)
CARRIED = _with_plurals(
    "bicycle bike book bottle camera cane cart cellphone cup folder magazine newspaper phone skateboard stroller tablet"
    " umbrella"
)
WORN = UPPER | LOWER | WHOLE | FEET | HEAD | SMALL
GARMENTS = WORN | BAGS | CARRIED
REGIONS = (UPPER, LOWER, WHOLE, FEET, HEAD, SMALL, BAGS, CARRIED)
# Garments that, before another one, say of what sort that is: a dress shirt, jean shorts, a tank top, a hair tie.
SORTS = _words("bag bike bottom bottoms camera capri capris dress hair jean jeans suit watch")
# Parts of garments, which the tagger takes for verbs at times.
PARTS = _with_plurals("button collar cuff hem lace pattern pocket print sleeve sole strap stripe trim")

PERSONS = _with_plurals(
    "adult boy child female gentleman girl guy individual kid lady male man pedestrian person student teen teenager"
    " toddler woman"
) | _words("children ladies men people women")
BODY = _with_plurals(
    "ankle arm back body chest ear elbow eye face finger foot hand head hip knee leg neck shoulder side thigh toe waist"
    " wrist"
) | _words("bodies calf calves feet thighs")
# What may follow a part of the body and make both an adjective: knee high, ankle long.
MEASURES = _words("deep high length long")
# What may follow any noun and make both an adjective: jean colored, polo style.
ASPECTS = _words("colored coloured styled")
STYLES = _words("color colour length style type")
# Adjectives that say where or which, and not how something looks.
WHERE = _words(
    "back bottom both certain different each far first front inner last left lower many middle near next opposite other"
    " outer own rear right same second several similar such top upper various visible"
)
