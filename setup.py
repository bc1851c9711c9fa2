"""What pyproject.toml cannot say: configs/, at the top here, is dpanet_jax/configs in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dpanet_jax", "dpanet_jax.*"]), "dpanet_jax.configs"],
    package_dir={"dpanet_jax.configs": "configs"},
)
