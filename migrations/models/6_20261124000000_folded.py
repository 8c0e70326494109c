"""What is searched loses its accents; orders are found by the end of their id.

Written by hand like those before it: one file for both databases.
"""

import json
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

BATCH = 1_000  # rows
Row = Mapping[str, Any]
Fold = Callable[[str], str]


def _folded(text: str) -> str:
    """As the service folds since then; what it does later is not this migration's matter."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()


def _mark(value: Any, fold: Fold) -> str | None:
    mark = fold(value) if isinstance(value, str) else ""
    return mark if 0 < len(mark) <= 200 else None


def _product(row: Row, fold: Fold) -> list[str | None]:
    attributes = json.loads(row["attributes"])
    artist = attributes.get("artist")
    words = [row["name"], artist] if isinstance(artist, str) else [row["name"]]
    return [_mark(artist, fold), _mark(attributes.get("genre"), fold), "\n".join(map(fold, words))]


def _customer(row: Row, fold: Fold) -> list[str | None]:
    texts = (row["nickname"], row["name"], *json.loads(row["tags"]))
    return ["\n".join(fold(text) for text in texts if text)]


# Table → its key, what is made, of what, and how.
MADE = {
    "products": ("sku", ["artist", "genre", "words"], ["name", "attributes"], _product),
    "customers": ("id", ["words"], ["nickname", "name", "tags"], _customer),
}


async def _write_again(db: BaseDBAsyncClient, table: str, fold: Fold) -> None:
    """Make what is searched anew, where it is another then; versions stay as they are."""
    key, made, _, make = MADE[table]
    marks = _marks(db, len(made) + 1)
    values = ", ".join(f"{name} = {mark}" for name, mark in zip(made, marks, strict=False))
    async for rows in _batches(db, table):
        wanted = [(row, make(row, fold)) for row in rows]
        changed = [[*new, row[key]] for row, new in wanted if new != [row[name] for name in made]]
        if changed:
            sql = f"UPDATE {table} SET {values} WHERE {key} = {marks[-1]}"
            await db.execute_many(sql, changed)


async def _batches(db: BaseDBAsyncClient, table: str) -> AsyncIterator[list[dict[str, Any]]]:
    """All rows of a table, by its key; never many of them in memory."""
    key, made, of, _ = MADE[table]
    sql = (
        f"SELECT {', '.join([key, *made, *of])} FROM {table}"
        f" WHERE {key} > {_marks(db, 1)[0]} ORDER BY {key} LIMIT {BATCH}"
    )
    after = ""
    while rows := await db.execute_query_dict(sql, [after]):
        yield rows
        after = rows[-1][key]


def _marks(db: BaseDBAsyncClient, count: int) -> list[str]:
    """How the database's driver writes the arguments of a statement."""
    postgres = db.capabilities.dialect == "postgres"
    return [f"${n}" if postgres else "?" for n in range(1, count + 1)]


# Of an order without a reference people see the last 12 digits of its id.
NUMBER = {
    "postgres": "substring(uuid_send(id) FROM 11)",
    "sqlite": "substr(id, 25)",
}


async def upgrade(db: BaseDBAsyncClient) -> str:
    for table in MADE:
        await _write_again(db, table, _folded)
    number = NUMBER[db.capabilities.dialect]
    return f"CREATE INDEX messages_number ON messages ({number}) WHERE reference IS NULL;"


async def downgrade(db: BaseDBAsyncClient) -> str:
    for table in MADE:
        await _write_again(db, table, str.casefold)
    return "DROP INDEX messages_number;"


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXVtz2zYW/isYvWw6o/VYsuNk3U5nHNdtvY3jNHG2nWk6MkRCElYkwACgFU23/30BkBQl8W"
    "KCkmiJxktikTi8fADPDefyV8enLvL40YXj0JCIzjn4q0Ogj+Qf66e6oAODID2hDgg49PRYGA3S"
    "B+GQCwYddbER9DiSh1zEHYYDgSlRo3+bUODDOeB4TAAmR4rKpY4kw2RcNCAk+EuIBoKOkZggJo"
    "f98ac8jImLviKe/AymgxFGnrvyJthVF9DHB2Ie6GPXRPyoB6p7DwcO9UKfpIODuZhQshiNIwDG"
    "iCAGBVKXFyxUr0ZCz4tRSN42etJ0SPSISzQuGsHQUwAp6ugB0mOdweDd7d3g49XdYNDJgJdQLM"
    "EVH3IoUcBjNQ3q7cfqEf7Z752+On19cnb6Wg7Rj7k48urv6NYpMBGhhufdXedvfR4KGI3QGKeg"
    "hhwx/XcG2ssJZPnYLtOsISwffR3hBM/9hdiHXwceImMxkT/PTkvw/M/Fh8ufLz68ODv9Rt2Qyg"
    "8k+nLexWf6+pSCPIU4gJzPKHMHE8gnJjhnCLcDdnIgRTv9wBuHu//yZQW85ahCwPW5VcQZ9RA3"
    "QXpB0EKEt7+gnZAL6iNmgvAyTS2QY47wXDCWkhc/5HDlN1QuVUjyQU6J1iAeSqpdLeSEVe8A5B"
    "JQ39zevlVX9jn/4ukD13dr6H66eXP14UVPgy4HYYGWRWIKdQyKerbq+sUq0eN6xrbQ7u21npGC"
    "KrAzRWJQC9tcWgvxOsQOQ+rNB1DksAk8LoR3la45XHevJf+r3z85edU/Pjl7/fL01auXr48XGG"
    "dPlYH95vonhfcKP8lOgAe5GHCEiPEUrFPWmoR9k4iNzYGyEEfTJXNGHRhCZzqDUlnOnKF9WjQ2"
    "e8rv++tHIIFjDad6b/XAC5M6hijH2E64VpmtrcZUNrWhAJAA6PqYABe7R+CS+j4WcnGAIRpRhg"
    "AWYCJvhwj/FtxzAUXI7yWNC+4defd74Ej1C8CRQEwOzTPWd3GLLZv7nz5d/2Bg74ehfA1Fsxub"
    "tPPdKCR6GoG+k/rn9PtO88qQVi9PzrSmE1Auxkyf1HA9Yv+bci4rNDYUGjB1xFW1nZZIrH1a0X"
    "bKUzjLEC5QMy3AeQALyCQ/NwE4pWif8d/rv64AsBxViLA+twqxiwTEXhbiO/S1gDOnFG2AuATR"
    "u6vf71ZM/wTIFzcXv2uM/Xl85u3tu5+S4UvAX769fbOGd6TNZPH+6EPPK5SGKVWLNPiT/quzhQ"
    "hUP8qE3sebi7dvc2xTqQ8auQfj8W1YurvmvgzJ15T2Y56CXOLiXqFqoZg7OasAdKwk5wGtTq3p"
    "Ea4rFWmjjYQlkhZCvJ21vCfm+yVkuTvl+ni3zHR35Agjwx0kux/AR5BwICgYhvMjcC04YHQGsD"
    "w0QcCjzhTQkbSdOfAwQbzISt/oehuY5E+y8fMcNouL7fMHxHiuMVNmpC8RWUu9tqUeBm4t//oq"
    "nZ2AQ/TtKiFwLZBfJCD0uUeFxADLYRUlxYVm0YpdS/YuaSNuHjDsoISfO5JJeHQcon/wrna7Ei"
    "rAFAU53tyNr7Zlx22xfNimPrpHkqF3elzFKXB6XOwUUOfKhcN+yOOn5k07Nrf4NDTBNx5uoa0A"
    "7ZcQEoHFPItvoXBdJmmTaN1aVIC0QGvoLMtUbYL1GWksCV/P01iWeH6JxhKPqqiwvJcjKYEeUO"
    "JJqhsPiAOpKSAgtQqCvgVIWiFyJclJAvJOCEyofA2teWA3q7BsfDWrsOwHdy/WVgh2pqah5ss0"
    "1jf8uEQ1xre12PaPqyjgclRxYPnx8Tq8yM/dlCvGd0HQQoBfVlm9clRJ5H5m/Q4xE5OB8p+YoL"
    "xK1T6oe5VsyRJTMrOQBRzn7GsUby4n45szazp//NnZEbhN7y2rHB4jtBcEDcLdFrBt4kRjiROF"
    "exP7tTFh4/mt9d7KDZ/jVqEv4eE1wF8ha1EU1vPzXF0W1S5YHdCt4sMamBQy+JnOgHy6+SKsQj"
    "uWlO+JoXPtY+Khr/fSPE/FV/AjcCOHdwGn8iwUgNAhdedgBlWkxYgyQAnKurh2d5sNfF9cGlUm"
    "dRUW47fD5lpdW6FQFS1zxBdpolaOVJQjmNTBfZnKIn9wMuTqAeXLjuhEqcxAakhFUXFLkDzliC"
    "NwJ/m1voSKp6ChGNKvXTDBkrMzybIZCjxV+YaGzEE6usKXS4dh6GnGLV/Dmwvs5ET47eQOmwgI"
    "9MXsS4oJ2iMfGuFfxVJEI5iZgZJUm3h8CyMQTvpVQrz7xSHe/UxwRzj8L3KMUpmWSFoIca+ar7"
    "nM2Zz1NvuIc8m3sygX5/MukWyQ1Ltnpt0mKbzLUTMoNOIIC4L27Yxsfwd1xKg/MIZ4lcribItI"
    "7QPGSqcw2XdKxrdCrjW98WQzdpvFewiFk1NOsVilWBBss0rI/oJuoFHYnafn6zn5ET7QkEV7vB"
    "nvSXqyW+ZBGSXDKue6BIy6oSMiv/ZSPuMMynlQ+YxThAJVjgjNEaA5tYXrXcIGidqslgPhQzar"
    "5VChtdL0+UrTX9A8T46qw6USdIrmVWUnAdhFfkAFIs5cCjmV90+kAIy2CuJ0fzoj5/LYiDL1To"
    "AgrOQdkIvNk9QcEMrUSSkGc7YgdnMLK3s3Y1SnlQLaT0sC2k+PH5W9I/k8iAUMm1WoWyOzYqKC"
    "mHgyp/i+AV3fht0Tpn8TT0sO479JZ6yY+cfTWt14CpkzgRxFSf3YTTL6KXMR+4c60pW/GQ3HEx"
    "1LpP3SeXy+7pU+k8/kniEHyaeKC8DOKJsidg+GyKNkrMwvXYEGyYufA44EGM6VkeZB7Hflfwgy"
    "VVZ2HuX1AZ8+IG3IfSaIuPK+ogvQVwcFmk5dSepGAWJK4Oi/XBCDpq08/dD+Ik4KAk+ufgBV9R"
    "sGiPz/M5EvxgWWrwAddVl5gZDI3/raBH0V0aPZmrX78mmXCSm9CnPLn5WkjackbdKstxZ8XlT/"
    "UMn8KxL6GtZr+QiQOChrHhbVQdwr0d95f/Xuh+t3P52DQHIZie5n8v7D7eXVx4/RQUYdyVT08c"
    "vbm/dvr+6ufjhXRa0DD8ln/0x+vLh+qw6NIPbU78uLd5dXb/UhR+Hi6aNXv7+//qCOoa8Blmxu"
    "ne8+TcbXgSRrHNAnY/1UDWjJiwpKVTfVFgStgLfpTTVBBfQGThIQWd15tUZoEzHqhi87IWPK7W"
    "LGVVKaViz7tbC/KlF/xUF/2fq5I6TgMgrwWSFqw3b9zhl36kEcTJHRcs4hbR/iO2l86CMBTYN+"
    "lmlawTyalpkBw5TlVjErLx6/TNcmBXsb9ePHjIaBCc9YELSPU+ygQYqQSnKQp+KV9P1JSdq0WL"
    "dmDXqUi4H2d5rAukZlkc2raPgAsX5X86qGa5Rtgrfp7HwipP5bIz1/hc5OQP0J0M5Ebj4BK3TW"
    "Lq9tl2sH7yBuo1InvCf/AnZG6s6IFpsDFNC8MPBiibtK1SaOtDWJG2/tmvlHFiTt08C3n3cabZ"
    "ebAJxStA/fXqXQpl5JaFMvW6sz/tBris08asuqa7Nq1e8aMUZzlnyxZ2qVqg3LvmnXlFy76vkN"
    "ME8pLN618EbsAeVEppQivqCxmJtjruO4Bjp8Kw/40rqfGdoGy38ujhxs/U+b6GALVj7vCRhhgv"
    "mkxgysEVrN8gBzfd5H8YKdnLDv5FS3LOw7jjc0SppVBCoBR1eLlGoDdnTsNmByqcy4zsthdPat"
    "qgwZxUK7VKfiCBXZPc4tS7nF69oUnw3t4CotjHvFLYx7Z4/l90woN3LrJONbERiwHoBRJa5Iji"
    "oJwMjEFgVGUemBDUgvC0hndXSbVbo2QduwbsMRIubop0QW+vrQC2kh5YU9l6z6BUWbcN8aN5kg"
    "aKRgJONbKPcqlfAoqeBxmvW0w7Ghcz0iaNNKbZhDqCI3Zm7GlKLBpkJ//d3ZEezNJ0Z4RnAn42"
    "0HJ2OoPcyFeh4DtJdIrAu9Rs8sPjVjJgsCy0sqwr0/PitVNK2T77PSp7qP+KzUoIouq9+UpwhH"
    "vUo49OQI+Xs2wc4EBAzHZetV6Vx5EJGoCAEX1JkqIqg8TkvFZrKeq+1ffpM6+U9YUGuPXFgNtB"
    "FussXt3mmbu+9xqz+dOimga4RWu7c5oHubAwqFvPkwFHnJGiVqzwpVK1BuXNVkApttQaQUbVDt"
    "G2DgEhBmJCEXBBbgSgAzFEWHzhHMiWcslI/rZC3a9N+an/YQWmW3iRsvEuSUmWSm7mVpW7SgG1"
    "b4FM8KEBvounsGLCVD16Ip2F7+qO0IbzvCr+BsO8IfnGS0AbbPZgL2xFX+q+7mluMo/zVp81bs"
    "Jo/q5FZzkl8AdX03qq2rXdbKI82RUDta/AjorucceFIcAUzAvb69PnifF8y52cW2HMFZ+IFUDX"
    "yLJeL+Or933ELcOrt32R5v6bEyGJe1bVshszv85jv82g/CkXyMPGv/kaTcJbrmJOvJjlu1b01n"
    "VN9MjfpO62QNKuOHhGy9Kk85lM3h+/JA4FVaGx2NarCFHEprS2ZreghE1EMMXDg3QTdLaLluBt"
    "0AhryGnbhC1iLfXcNmunU7bXUx67obOinevGzKOqld1LWDQKzzzzr/nvUEuEj3XTGegFU6y4EO"
    "1fmq/ZKdIg9sdLb7qBtWLoyQVI1Y/pnOgHyoedJeTCfFw9idqpofuSqWmCHV3EdeqKu6kbnKk3"
    "r7ovdNV6fHq7DimCLrn93B9Tdw2e5FI61W+2/jRlOGVkFK1Jz02LGl1bDoSHt5GUK/QmfRr6m6"
    "Ji3TDDXXZTKLfc2SRLo3nRnwKY1FfZPq0MbAr5BZ7DepjG6I/BKRxf0wzYMPUIeh5VsH+mQF40"
    "BNsUk240ReUK4MrZMnerv8UynmqgaHcCa6jBb2kepVPKKem5TVQg+ICODRcUEi4zaurBoz32Ci"
    "MlQAZKo5ciB0eiQELpx35T28EZjQkPH46Ayh6RG4m6ihc5UW+SJR8LuAB5ColMpvvv1M7igTFH"
    "M5jNAZV4O15aIeLvqm5J/e3Noj+26PqDnNolvepyqhaZMnaxs9qoy70Vh/4IaCPuolYyjoUyIr"
    "6Gsqt4W1lctU28Kiyhb3irhLoR8yYgr8MpVFvubOg1RsDPccYgqLuHVbHA7qLqPS6DCEfYnI4n"
    "5wprMyjPkNZNNOjumcnuyWmc7aaB74ybhHLefbaNvqXJqeMzmGaatV2qtgBrm2ZLXVKyi4XzLK"
    "c7IbNrjOlhMbyi2mtpmj9a2lEksUfTFjOzGBtZ8OkuugB+rAGKYs20nPlvOdxbjKuVWOtP1U+C"
    "r0orr1iCgmMUQjypDOjVo41KCPvXlX/iWwM0WiC7SDTMVnAoZGDPEJEHSKcuqQ7ewutp7+hvX0"
    "+5X6yvVL+sr1jx+rR2bj9J7aLfR0nXGf7wTsiVz5qMo55omU6ESpNOGLIdXDwnS01sdfPinNU7"
    "J2yNARuNAHZliun1DEdSVx1BxFh54h9xxwtV2TDJHSoSQybKu3sAUt9yXttFiASLgmkBga4UtE"
    "lnNt4GEt6tdY7mEt7Nhowa8Ovkdn5vklCxob1r31bKky4J8kYap10PvUmNksSCzsNpXqUCfApl"
    "I9cxPtRnIxH+Vn86wO6D5qsg38eGxFJ6DaNfCw/CcOl/OQO0ZM/bqPtej7c6CD71zkdgFBUtYB"
    "Rx4fpz8DFhKUY7Vt+dpbdvh9+nT9g4HDLwyxe6RodmOydb4bhcRRswL0ndQ/p993dvSdlXwyUb"
    "HwqI1mQLkYM31Sw/XYrsUTGsVPzbh2XI2JhP4wr/hpmXxIaaxsqC2cpzjP+VC8qJPxLVzVvUr7"
    "BSXbBZla4RGvN1Q7FzR2Vdde1darZr1qzxF861WzXrVnBj1DkJuV8Ewp2tDypATAnZTvZGiEVK"
    "8po8q0K0RtQH3X9lBcIcTEql8i2cC03zOcNzHkV5pA0BzjsqTtVEJg1+rja9U62J+zf1dOot/J"
    "dezqM91yj+5iTPUwcuVpnajCSJkEaN3jVUXHeKrN6xg/IA4iJxFXydQO9X0sgG6XUxJevr3r27"
    "DzPQs7V9NqxqMSCsudaivoNlO66ZDYgDoTE21nQdBGp+5ZFafuWbFT92xd3Rl5NE+ZLM1VTEjs"
    "qq69qvkMBYacZEFiYa8Ne9TMaFDLwZWltROxgZ9rkf5UbzYKLmCnpPaUTKhZf6ZkfBvFbP91pW"
    "Sr1yXJVq+/2R+79gIx7Ew6OXZtfKZbZtfCdMxjdm0x3rYb235VzypkusUffDGbbcM333/5ssI3"
    "L0cVt1dX59asRflRGSAcD28hur1Kzet7Jc3re9nm9fKOIo6zXEX43x9v3xV4aVOSNZRd7AjwP+"
    "BhfogqQwm4CozyfbP1LbLu6haEusCbpxZmf/8f2lyIHw=="
)
