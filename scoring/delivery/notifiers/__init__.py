"""Ways to tell people and programs of a change of level, a silence or an approval that is wanted."""
