"""The recipes that ship with medllama; a recipe is one YAML file that is the whole run on one page."""
