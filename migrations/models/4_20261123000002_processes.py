"""The processes of the service, each with a row that it renews.

Written by hand like those before it: one file for both databases.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

SCHEMA = """
CREATE TABLE processes (
    id VARCHAR(16) NOT NULL PRIMARY KEY,
    host VARCHAR(253) NOT NULL,
    pid INT NOT NULL CHECK (pid > 0),
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    streams INT NOT NULL CHECK (streams >= 0),
    head VARCHAR(40) NOT NULL,
    lag BIGINT NOT NULL CHECK (lag >= 0),
    wanted TEXT NOT NULL DEFAULT '{}',
    told TEXT NOT NULL DEFAULT '',
    listing TEXT,
    asked TEXT NOT NULL DEFAULT '{}'
);
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    return SCHEMA


async def downgrade(db: BaseDBAsyncClient) -> str:
    return "DROP TABLE processes;"


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXVtz2zYW/isYvWw6o/VYsuNk3U5nHNdtvY3jNHG2nWk6MkRCElYkwACgFU23/30BkBQl8WKC"
    "kmiJxktikTi8fADPDefyV8enLvL40YXj0JCIzjn4q0Ogj+Qf66e6oAODID2hDgg49PRYGA3SB+GQ"
    "CwYddbER9DiSh1zEHYYDgSlRo3+bUODDOeB4TAAmR4rKpY4kw2RcNCAk+EuIBoKOkZggJof98ac8"
    "jImLviKe/AymgxFGnrvyJthVF9DHB2Ie6GPXRPyoB6p7DwcO9UKfpIODuZhQshiNIwDGiCAGBVKX"
    "FyxUr0ZCz4tRSN42etJ0SPSISzQuGsHQUwAp6ugB0mOdweDd7d3g49XdYNDJgJdQLMEVH3IoUcBj"
    "NQ3q7cfqEf7Z752+On19cnb6Wg7Rj7k48urv6NYpMBGhhufdXedvfR4KGI3QGKeghhwx/XcG2ssJ"
    "ZPnYLtOsISwffR3hBM/9hdiHXwceImMxkT/PTkvw/M/Fh8ufLz68ODv9Rt2Qyg8k+nLexWf6+pSC"
    "PIU4gJzPKHMHE8gnJjhnCLcDdnIgRTv9wBuHu//yZQW85ahCwPW5VcQZ9RA3QXpB0EKEt7+gnZAL"
    "6iNmgvAyTS2QY47wXDCWkhc/5HDlN1QuVUjyQU6J1iAeSqpdLeSEVe8A5BJQ39zevlVX9jn/4ukD"
    "13dr6H66eXP14UVPgy4HYYGWRWIKdQyKerbq+sUq0eN6xrbQ7u21npGCKrAzRWJQC9tcWgvxOsQO"
    "Q+rNB1DksAk8LoR3la45XHevJf+r3z85edU/Pjl7/fL01auXr48XGGdPlYH95vonhfcKP8lOgAe5"
    "GHCEiPEUrFPWmoR9k4iNzYGyEEfTJXNGHRhCZzqDUlnOnKF9WjQ2e8rv++tHIIFjDad6b/XAC5M6"
    "hijH2E64VpmtrcZUNrWhAJAA6PqYABe7R+CS+j4WcnGAIRpRhgAWYCJvhwj/FtxzAUXI7yWNC+4d"
    "efd74Ej1C8CRQEwOzTPWd3GLLZv7nz5d/2Bg74ehfA1FsxubtPPdKCR6GoG+k/rn9PtO88qQVi9P"
    "zrSmE1Auxkyf1HA9Yv+bci4rNDYUGjB1xFW1nZZIrH1a0XbKUzjLEC5QMy3AeQALyCQ/NwE4pWif"
    "8d/rv64AsBxViLA+twqxiwTEXhbiO/S1gDOnFG2AuATRu6vf71ZM/wTIFzcXv2uM/Xl85u3tu5+S"
    "4UvAX769fbOGd6TNZPH+6EPPK5SGKVWLNPiT/quzhQhUP8qE3sebi7dvc2xTqQ8auQfj8W1Yurvm"
    "vgzJ15T2Y56CXOLiXqFqoZg7OasAdKwk5wGtTq3pEa4rFWmjjYQlkhZCvJ21vCfm+yVkuTvl+ni3"
    "zHR35Agjwx0kux/AR5BwICgYhvMjcC04YHQGsDw0QcCjzhTQkbSdOfAwQbzISt/oehuY5E+y8fMc"
    "NouL7fMHxHiuMVNmpC8RWUu9tqUeBm4t//oqnZ2AQ/TtKiFwLZBfJCD0uUeFxADLYRUlxYVm0Ypd"
    "S/YuaSNuHjDsoISfO5JJeHQcon/wrna7EirAFAU53tyNr7Zlx22xfNimPrpHkqF3elzFKXB6XOwU"
    "UOfKhcN+yOOn5k07Nrf4NDTBNx5uoa0A7ZcQEoHFPItvoXBdJmmTaN1aVIC0QGvoLMtUbYL1GWks"
    "CV/P01iWeH6JxhKPqqiwvJcjKYEeUOJJqhsPiAOpKSAgtQqCvgVIWiFyJclJAvJOCEyofA2teWA3"
    "q7BsfDWrsOwHdy/WVgh2pqah5ss01jf8uEQ1xre12PaPqyjgclRxYPnx8Tq8yM/dlCvGd0HQQoBf"
    "Vlm9clRJ5H5m/Q4xE5OB8p+YoLxK1T6oe5VsyRJTMrOQBRzn7GsUby4n45szazp//NnZEbhN7y2r"
    "HB4jtBcEDcLdFrBt4kRjiROFexP7tTFh4/mt9d7KDZ/jVqEv4eE1wF8ha1EU1vPzXF0W1S5YHdCt"
    "4sMamBQy+JnOgHy6+SKsQjuWlO+JoXPtY+Khr/fSPE/FV/AjcCOHdwGn8iwUgNAhdedgBlWkxYgy"
    "QAnKurh2d5sNfF9cGlUmdRUW47fD5lpdW6FQFS1zxBdpolaOVJQjmNTBfZnKIn9wMuTqAeXLjuhE"
    "qcxAakhFUXFLkDzliCNwJ/m1voSKp6ChGNKvXTDBkrMzybIZCjxV+YaGzEE6usKXS4dh6GnGLV/D"
    "mwvs5ET47eQOmwgI9MXsS4oJ2iMfGuFfxVJEI5iZgZJUm3h8CyMQTvpVQrz7xSHe/UxwRzj8L3KM"
    "UpmWSFoIca+ar7nM2Zz1NvuIc8m3sygX5/MukWyQ1Ltnpt0mKbzLUTMoNOIIC4L27Yxsfwd1xKg/"
    "MIZ4lcribItI7QPGSqcw2XdKxrdCrjW98WQzdpvFewiFk1NOsVilWBBss0rI/oJuoFHYnafn6zn5"
    "ET7QkEV7vBnvSXqyW+ZBGSXDKue6BIy6oSMiv/ZSPuMMynlQ+YxThAJVjgjNEaA5tYXrXcIGidqs"
    "lgPhQzar5VChtdL0+UrTX9A8T46qw6USdIrmVWUnAdhFfkAFIs5cCjmV90+kAIy2CuJ0fzoj5/LY"
    "iDL1ToAgrOQdkIvNk9QcEMrUSSkGc7YgdnMLK3s3Y1SnlQLaT0sC2k+PH5W9I/k8iAUMm1WoWyOz"
    "YqKCmHgyp/i+AV3fht0Tpn8TT0sO479JZ6yY+cfTWt14CpkzgRxFSf3YTTL6KXMR+4c60pW/GQ3H"
    "Ex1LpP3SeXy+7pU+k8/kniEHyaeKC8DOKJsidg+GyKNkrMwvXYEGyYufA44EGM6VkeZB7Hflfwgy"
    "VVZ2HuX1AZ8+IG3IfSaIuPK+ogvQVwcFmk5dSepGAWJK4Oi/XBCDpq08/dD+Ik4KAk+ufgBV9RsG"
    "iPz/M5EvxgWWrwAddVl5gZDI3/raBH0V0aPZmrX78mmXCSm9CnPLn5WkjackbdKstxZ8XlT/UMn8"
    "KxL6GtZr+QiQOChrHhbVQdwr0d95f/Xuh+t3P52DQHIZie5n8v7D7eXVx4/RQUYdyVT08cvbm/dv"
    "r+6ufjhXRa0DD8ln/0x+vLh+qw6NIPbU78uLd5dXb/UhR+Hi6aNXv7+//qCOoa8Blmxune8+TcbX"
    "gSRrHNAnY/1UDWjJiwpKVTfVFgStgLfpTTVBBfQGThIQWd15tUZoEzHqhi87IWPK7WLGVVKaViz7"
    "tbC/KlF/xUF/2fq5I6TgMgrwWSFqw3b9zhl36kEcTJHRcs4hbR/iO2l86CMBTYN+lmlawTyalpkB"
    "w5TlVjErLx6/TNcmBXsb9ePHjIaBCc9YELSPU+ygQYqQSnKQp+KV9P1JSdq0WLdmDXqUi4H2d5rA"
    "ukZlkc2raPgAsX5X86qGa5Rtgrfp7HwipP5bIz1/hc5OQP0J0M5Ebj4BK3TWLq9tl2sH7yBuo1In"
    "vCf/AnZG6s6IFpsDFNC8MPBiibtK1SaOtDWJG2/tmvlHFiTt08C3n3cabZebAJxStA/fXqXQpl5J"
    "aFMvW6sz/tBris08asuqa7Nq1e8aMUZzlnyxZ2qVqg3LvmnXlFy76vkNME8pLN618EbsAeVEppQi"
    "vqCxmJtjruO4Bjp8Kw/40rqfGdoGy38ujhxs/U+b6GALVj7vCRhhgvmkxgysEVrN8gBzfd5H8YKd"
    "nLDv5FS3LOw7jjc0SppVBCoBR1eLlGoDdnTsNmByqcy4zsthdPatqgwZxUK7VKfiCBXZPc4tS7nF"
    "69oUnw3t4CotjHvFLYx7Z4/l90woN3LrJONbERiwHoBRJa5IjioJwMjEFgVGUemBDUgvC0hndXSb"
    "Vbo2QduwbsMRIubop0QW+vrQC2kh5YU9l6z6BUWbcN8aN5kgaKRgJONbKPcqlfAoqeBxmvW0w7Gh"
    "cz0iaNNKbZhDqCI3Zm7GlKLBpkJ//d3ZEezNJ0Z4RnAn420HJ2OoPcyFeh4DtJdIrAu9Rs8sPjVj"
    "JgsCy0sqwr0/PitVNK2T77PSp7qP+KzUoIouq9+UpwhHvUo49OQI+Xs2wc4EBAzHZetV6Vx5EJGo"
    "CAEX1JkqIqg8TkvFZrKeq+1ffpM6+U9YUGuPXFgNtBFussXt3mmbu+9xqz+dOimga4RWu7c5oHub"
    "AwqFvPkwFHnJGiVqzwpVK1BuXNVkApttQaQUbVDtG2DgEhBmJCEXBBbgSgAzFEWHzhHMiWcslI/r"
    "ZC3a9N+an/YQWmW3iRsvEuSUmWSm7mVpW7SgG1b4FM8KEBvounsGLCVD16Ip2F7+qO0IbzvCr+Bs"
    "O8IfnGS0AbbPZgL2xFX+q+7mluMo/zVp81bsJo/q5FZzkl8AdX03qq2rXdbKI82RUDta/Ajorucc"
    "eFIcAUzAvb69PnifF8y52cW2HMFZ+IFUDXyLJeL+Or933ELcOrt32R5v6bEyGJe1bVshszv85jv8"
    "2g/CkXyMPGv/kaTcJbrmJOvJjlu1b01nVN9MjfpO62QNKuOHhGy9Kk85lM3h+/JA4FVaGx2NarCF"
    "HEprS2ZreghE1EMMXDg3QTdLaLluBt0AhryGnbhC1iLfXcNmunU7bXUx67obOinevGzKOqld1LWD"
    "QKzzzzr/nvUEuEj3XTGegFU6y4EO1fmq/ZKdIg9sdLb7qBtWLoyQVI1Y/pnOgHyoedJeTCfFw9id"
    "qpofuSqWmCHV3EdeqKu6kbnKk3r7ovdNV6fHq7DimCLrn93B9Tdw2e5FI61W+2/jRlOGVkFK1Jz0"
    "2LGl1bDoSHt5GUK/QmfRr6m6Ji3TDDXXZTKLfc2SRLo3nRnwKY1FfZPq0MbAr5BZ7DepjG6I/BKR"
    "xf0wzYMPUIeh5VsH+mQF40BNsUk240ReUK4MrZMnerv8UynmqgaHcCa6jBb2kepVPKKem5TVQg+I"
    "CODRcUEi4zaurBoz32CiMlQAZKo5ciB0eiQELpx35T28EZjQkPH46Ayh6RG4m6ihc5UW+SJR8LuA"
    "B5ColMpvvv1M7igTFHM5jNAZV4O15aIeLvqm5J/e3Noj+26PqDnNolvepyqhaZMnaxs9qoy70Vh/"
    "4IaCPuolYyjoUyIr6Gsqt4W1lctU28Kiyhb3irhLoR8yYgr8MpVFvubOg1RsDPccYgqLuHVbHA7q"
    "LqPS6DCEfYnI4n5wprMyjPkNZNNOjumcnuyWmc7aaB74ybhHLefbaNvqXJqeMzmGaatV2qtgBrm2"
    "ZLXVKyi4XzLKc7IbNrjOlhMbyi2mtpmj9a2lEksUfTFjOzGBtZ8OkuugB+rAGKYs20nPlvOdxbjK"
    "uVWOtP1U+Cr0orr1iCgmMUQjypDOjVo41KCPvXlX/iWwM0WiC7SDTMVnAoZGDPEJEHSKcuqQ7ewu"
    "tp7+hvX0+5X6yvVL+sr1jx+rR2bj9J7aLfR0nXGf7wTsiVz5qMo55omU6ESpNOGLIdXDwnS01sdf"
    "PinNU7J2yNARuNAHZliun1DEdSVx1BxFh54h9xxwtV2TDJHSoSQybKu3sAUt9yXttFiASLgmkBga"
    "4UtElnNt4GEt6tdY7mEt7Nhowa8Ovkdn5vklCxob1r31bKky4J8kYap10PvUmNksSCzsNpXqUCfA"
    "plI9cxPtRnIxH+Vn86wO6D5qsg38eGxFJ6DaNfCw/CcOl/OQO0ZM/bqPtej7c6CD71zkdgFBUtYB"
    "Rx4fpz8DFhKUY7Vt+dpbdvh9+nT9g4HDLwyxe6RodmOydb4bhcRRswL0ndQ/p993dvSdlXwyUbHw"
    "qI1mQLkYM31Sw/XYrsUTGsVPzbh2XI2JhP4wr/hpmXxIaaxsqC2cpzjP+VC8qJPxLVzVvUr7BSXb"
    "BZla4RGvN1Q7FzR2Vdde1darZr1qzxF861WzXrVnBj1DkJuV8Ewp2tDypATAnZTvZGiEVK8po8q0"
    "K0RtQH3X9lBcIcTEql8i2cC03zOcNzHkV5pA0BzjsqTtVEJg1+rja9U62J+zf1dOot/JdezqM91y"
    "j+5iTPUwcuVpnajCSJkEaN3jVUXHeKrN6xg/IA4iJxFXydQO9X0sgG6XUxJevr3r27DzPQs7V9Nq"
    "xqMSCsudaivoNlO66ZDYgDoTE21nQdBGp+5ZFafuWbFT92xd3Rl5NE+ZLM1VTEjsqq69qvkMBYac"
    "ZEFiYa8Ne9TMaFDLwZWltROxgZ9rkf5UbzYKLmCnpPaUTKhZf6ZkfBvFbP91pWSr1yXJVq+/2R+7"
    "9gIx7Ew6OXZtfKZbZtfCdMxjdm0x3rYb235VzypkusUffDGbbcM333/5ssI3L0cVt1dX59asRflR"
    "GSAcD28hur1Kzet7Jc3re9nm9fKOIo6zXEX43x9v3xV4aVOSNZRd7AjwP+BhfogqQwm4CozyfbP1"
    "LbLu6haEusCbpxZmf/8f2lyIHw=="
)
