"""How well the text rules part real captions from 1,000 corrupted ones: lists of words, file names, markup, repetition,
other languages.

    python benchmarks/text_filters.py CAPTIONS.json [--parser bundled]

CAPTIONS.json is a COCO captions file. Prints a table by kind and by rule and, last, one JSON line.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from florence2.engine.curation.filters.rules import open_chain
from florence2.records import ImageRef, Sample, Source, Text

KINDS = ("word_list", "file_name", "markup", "repeated", "other_language")

NOUNS = (
    "dog cat car tree house street table chair horse bus train boat bird clock vase bed sofa pizza cake apple laptop "
    "phone bicycle umbrella bench kite surfboard skateboard elephant zebra giraffe bear sheep cow sink oven toilet "
    "book bottle cup"
).split()

TEMPLATES = {  # language -> (subjects, verbs, places); a sentence is one of each
    "es": (("Un perro", "Una mujer joven", "Dos gatos", "Un hombre con sombrero"), ("está sentado", "duerme", "espera"),
           ("en la calle", "junto a la ventana", "sobre una mesa de madera", "cerca del río")),
    "fr": (("Un chien", "Une femme", "Deux enfants", "Un homme en costume"), ("dort", "est assis", "attend"),
           ("dans la rue", "sur un banc", "devant une maison", "près de la fenêtre")),
    "de": (("Ein Hund", "Eine Frau", "Zwei Kinder", "Ein Mann mit Hut"), ("steht", "sitzt", "wartet"),
           ("auf der Straße", "neben dem Fenster", "vor einem Haus", "unter einem Baum")),
    "it": (("Un cane", "Una donna", "Due bambini", "Un uomo con il cappello"), ("dorme", "è seduto", "aspetta"),
           ("sulla spiaggia", "nella cucina", "davanti alla casa", "vicino al fiume")),
    "pt": (("Um cão", "Uma mulher", "Duas crianças", "Um homem de chapéu"), ("dorme", "está sentado", "espera"),
           ("na rua", "em uma mesa", "ao lado da janela", "perto do rio")),
    "nl": (("Een hond", "Een vrouw", "Twee kinderen", "Een man met een hoed"), ("slaapt", "zit", "wacht"),
           ("op het strand", "naast het raam", "voor een huis", "onder een boom")),
    "sv": (("En hund", "En kvinna", "Två barn", "En man med hatt"), ("sover", "sitter", "väntar"),
           ("på gatan", "vid fönstret", "framför ett hus", "under ett träd")),
    "pl": (("Pies", "Kobieta", "Dwoje dzieci", "Mężczyzna w kapeluszu"), ("śpi", "siedzi", "czeka"),
           ("na ulicy", "przy oknie", "przed domem", "pod drzewem")),
    "ru": (("Собака", "Женщина", "Двое детей", "Мужчина в шляпе"), ("спит", "сидит", "ждёт"),
           ("на улице", "у окна", "перед домом", "под деревом")),
    "ja": (("犬が", "女性が", "二人の子供が", "帽子の男性が"), ("寝ている", "座っている", "待っている"),
           ("通りで", "窓のそばで", "家の前で", "木の下で")),
}  # fmt: skip


def corrupt(caption: str, kind: str, rng: random.Random) -> str:
    """A caption spoiled in one of KINDS."""
    words = caption.rstrip(". ").split()
    if kind == "word_list":
        found = rng.sample(NOUNS, rng.randint(4, 12))
        return rng.choice((" ", ", ", "; ")).join(found)
    if kind == "file_name":
        stem = rng.choice(("IMG", "DSC", "photo", "scan", "-".join(rng.sample(NOUNS, 2)), rng.choice(NOUNS)))
        suffix = rng.choice(("jpg", "png", "JPG", "gif", "webp"))
        return f"{stem}{rng.choice(('_', '-', ''))}{rng.randint(1, 9999):04d}.{suffix}"
    if kind == "markup":
        return rng.choice(
            (
                f"<p>{caption}</p>",
                f'<a href="x.php?id={rng.randint(1, 99)}">{caption}</a>',
                f"{caption} http://example.com/{rng.randint(1, 999)}",
                f"**{caption}**",
                f'{{"caption": "{caption}"}}',
                " ".join("#" + w.strip(".,") if len(w) > 3 else w for w in words),
                caption.replace(" ", "&nbsp;", 2),
            )
        )
    if kind == "repeated":
        cut = rng.randint(2, max(2, len(words) - 1))
        return rng.choice(
            (
                " ".join([caption] * rng.randint(2, 4)),
                " ".join([*words, *words[-cut:] * rng.randint(2, 5)]),
                " ".join(words[:cut] + [words[cut - 1]] * rng.randint(4, 12)),
            )
        )
    subjects, verbs, places = TEMPLATES[rng.choice(sorted(TEMPLATES))]
    return f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(places)}."


def main() -> None:
    """Judge the captions and the corrupted ones by the default chain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path)
    parser.add_argument("--parser", default="bundled")
    parser.add_argument("--show", action="store_true", help="print what was judged wrongly")
    args = parser.parse_args()
    captions = [" ".join(a["caption"].split()) for a in json.loads(args.captions.read_text())["annotations"]]
    rng = random.Random(0)
    texts = [("caption", caption) for caption in captions]
    texts += [(kind, corrupt(rng.choice(captions), kind, rng)) for kind in KINDS for _ in range(1000 // len(KINDS))]
    chain = open_chain()
    chain = open_chain({f.spec.name: {"parser": args.parser} for f in chain if "parser" in f.config})
    rejected: dict[str, Counter] = {kind: Counter() for kind, _ in texts}
    for kind, text in texts:
        sample = Sample("s", ImageRef("s"), texts=(Text("t", text, source=Source("specialist", "x")),))
        first = next((d for rule in chain for d in rule.judge(sample)), None)
        rejected[kind][first.reason if first else "kept"] += 1
        if args.show and (first is None) != (kind == "caption"):
            print(f"{kind:15} {first.reason if first else 'kept':18} {text}")
    print(f"{'kind':15} {'texts':>6} {'rejected':>9}  by the first rule that rejects")
    for kind, found in rejected.items():
        share = 1 - found["kept"] / found.total()
        rules = ", ".join(f"{reason} {count}" for reason, count in found.most_common() if reason != "kept")
        print(f"{kind:15} {found.total():6} {share:9.1%}  {rules}")
    lost = 1 - rejected["caption"]["kept"] / rejected["caption"].total()
    caught = sum(found.total() - found["kept"] for kind, found in rejected.items() if kind != "caption")
    corrupted = sum(found.total() for kind, found in rejected.items() if kind != "caption")
    print(json.dumps({"captions": len(captions), "captions_rejected": round(lost, 4), "corrupted": corrupted,
                      "corrupted_rejected": round(caught / corrupted, 4)}))  # fmt: skip


if __name__ == "__main__":
    main()
