"""rsseg recipe."""

from typing import Annotated

import typer

from rsseg import preparation, union
from rsseg import recipe as recipes
from rsseg.cli import console
from rsseg.facts import names

app = typer.Typer(add_completion=False)


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Recipe to check and print in full.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress (there is none).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check a recipe and print it with every default; without a name, list the shipped ones."""
    if schema:
        console.show_json(recipes.schema())
    elif name is None:
        shipped = names("recipes")
        console.show_json(shipped) if as_json else console.show("\n".join(shipped))
    else:
        loaded = recipes.load(name, overrides or [])
        sets = {name: one.data for name, one in recipes.each(loaded).items()}
        union.modalities(
            {name: list(preparation.modalities_of(data).values()) for name, data in sets.items()}
        )
        union.classes({name: preparation.class_map_of(data) for name, data in sets.items()})
        if as_json:
            console.show_json(loaded.model_dump(mode="json"))
        else:
            console.show(recipes.dump(loaded).rstrip())
