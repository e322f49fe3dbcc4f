"""The endurance run: traffic through a private installation while its parts are broken, one after another."""
