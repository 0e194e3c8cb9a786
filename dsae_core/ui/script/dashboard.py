"""Runs anew at every interaction: opens the page that the address names."""

from dsae_core.ui.navigation import main

main(styled=True)
