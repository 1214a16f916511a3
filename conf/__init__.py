"""Hydra's groups: the YAML files beside this one. `ringattn.launch.compose` reads them."""
