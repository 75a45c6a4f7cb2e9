"""The long tests of delivery: minutes of kills, cuts and outages under load. Only `make crash` runs them."""
