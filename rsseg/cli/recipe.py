"""rsseg recipe."""

from typing import Annotated

import typer

from rsseg import preparation
from rsseg import recipe as recipes
from rsseg.cli import console
from rsseg.facts import names

app = typer.Typer()


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="Recipe to check and print in full.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes.")] = False,
) -> None:
    """Check a recipe and print it with every default; without a name, list the shipped ones."""
    if schema:
        console.show_json(recipes.Recipe.model_json_schema())
    elif name is None:
        console.show("\n".join(names("recipes")))
    else:
        loaded = recipes.load(name, overrides or [])
        preparation.modalities_of(loaded.data)
        preparation.class_map_of(loaded.data)
        console.show(recipes.dump(loaded).rstrip())
