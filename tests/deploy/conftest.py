"""The fixtures of :mod:`deploy.installation`."""

from deploy.installation import installation, module_folder

__all__ = ["installation", "module_folder"]
