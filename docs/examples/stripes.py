"""A task of one's own: the images in the folder beside this file."""

from pathlib import Path

from fashiontl.data import Task
from fashiontl.data.image_folder import ImageFolder
from fashiontl.matrix.extensions import register

folder = ImageFolder(Path(__file__).with_name("stripes"))
register(Task("stripes", "which way the stripes run", names=("horizontal", "vertical"), images=folder))
