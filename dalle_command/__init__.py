"""The console command `dalle`: the scripts of the checkout under one name."""
