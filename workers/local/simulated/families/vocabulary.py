"""Words that the families share, so that their prompts differ by what is asked and not by what is named."""

PEOPLE = (
    "Amara", "Bastian", "Chiara", "Dmitri", "Eleni", "Farouk", "Greta", "Hiroshi", "Ingrid", "Joaquin",
    "Katya", "Leopold", "Mireille", "Nikhil", "Odette", "Pavel", "Quentin", "Rosalind", "Soraya", "Tobias",
    "Ursula", "Viktor", "Wanda", "Xenia", "Yusuf", "Zofia",
)  # fmt: skip
SURNAMES = (
    "Abbott", "Berg", "Castillo", "Dube", "Eriksen", "Fontaine", "Grabowski", "Haddad", "Ivanova", "Jensen",
    "Kowalski", "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov", "Quispe", "Romano", "Sato", "Tanaka",
)  # fmt: skip
CITIES = (
    "Aarhus", "Bergen", "Cordoba", "Dresden", "Eindhoven", "Fukuoka", "Ghent", "Haifa", "Izmir", "Jaipur",
    "Krakow", "Leeds", "Montreal", "Nairobi", "Oporto", "Poznan", "Quito", "Rosario", "Seville", "Turin",
    "Utrecht", "Valencia",
)  # fmt: skip
PRODUCTS = (
    "desk lamps", "garden chairs", "water filters", "notebooks", "bicycle pumps", "tea kettles",
    "wool blankets", "picture frames", "phone chargers", "paint brushes", "coffee mugs", "hiking boots",
    "cutting boards", "measuring tapes", "toolboxes", "backpacks", "umbrellas", "candles", "door handles",
    "printer cartridges",
)  # fmt: skip
WORDS = (
    "almanac", "balcony", "caramel", "dolphin", "elevator", "festival", "glacier", "harvest", "insulin",
    "journey", "kitchen", "lantern", "meadow", "nickel", "orchard", "pyramid", "quarter", "raccoon",
    "station", "thunder", "upgrade", "village", "whisper", "yearbook", "zeppelin", "absolute", "bonfire",
    "calendar", "december", "envelope", "fountain", "grammar", "hospital", "industry", "jasmine",
    "keyboard", "language", "mosquito", "notebook", "opposite", "parallel", "question", "republic",
    "sandwich", "tomorrow", "umbrella", "velocity", "waterfall",
)  # fmt: skip
PLACES = (
    "the shop", "the warehouse", "our school", "the clinic", "the library", "the bakery", "the museum",
    "the factory", "the harbour office", "the sports club", "the hotel", "the farm", "the studio",
    "the laboratory",
)  # fmt: skip
FRUIT = (
    "apples", "pears", "plums", "cherries", "figs", "lemons", "grapes", "melons", "peaches", "apricots",
    "mangoes",
)  # fmt: skip
BACKGROUND = (
    "We moved to a new building last spring, and half of our papers are still in boxes.",
    "My colleague used to do this by hand, but she is on leave until the end of the month.",
    "The old spreadsheet broke when somebody inserted a column, so I have to ask you instead.",
    "I have a meeting in ten minutes and would like to have this settled before it begins.",
    "Somebody on the team got a different result yesterday, and we could not agree on which one is right.",
    "This is for the weekly report that goes to the regional office, so it has to be correct.",
    "Please ignore the formatting, I pasted it from an e-mail on my phone.",
    "There is no need to explain each step, we only have to enter the result into the form.",
)
