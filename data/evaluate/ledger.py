"""Writes ledger.txt: the day book of a store, one line a delivery, from a seed.

usage: ledger.py > ledger.txt
"""

import random

GOODS = ["lamp oil", "rope", "salt", "nails", "canvas", "tar", "flour", "coal", "soap", "candles", "paint", "copper wire"]
PLACES = ["Northquay", "Saltmere", "the mill", "Brackwater", "the island ferry", "Holm Farm", "the rope yard"]
UNITS = ["barrels", "crates", "sacks", "coils", "boxes"]
MONTHS = ["March", "April", "May"]


def main():
    draw = random.Random(7)
    print("Day book of the harbour store. Each line: day, goods, from where, price.")
    for month in MONTHS:
        for day in range(1, 16):
            count = draw.randint(2, 40)
            price = f"{draw.randint(1, 9)} pounds {draw.randint(1, 19)} shillings"
            print(f"{day} {month}: {count} {draw.choice(UNITS)} of {draw.choice(GOODS)} from {draw.choice(PLACES)}, {price}.")


if __name__ == "__main__":
    main()
