"""Stock with its ledger, products, the directory of customers, favourites.

Written by hand like the first one: CHECKs and partial indexes, one file for both databases.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

POSTGRES = {"UUID": "UUID", "BOOL": "BOOLEAN", "YES": "TRUE", "NO": "FALSE", "C": 'COLLATE "C"'}
SQLITE = {"UUID": "CHAR(36)", "BOOL": "INT", "YES": "1", "NO": "0", "C": ""}

SCHEMA = """
ALTER TABLE messages ADD COLUMN reserved TEXT
    CONSTRAINT messages_reserved CHECK (reserved IS NULL OR status IN ('pending', 'processing'));
ALTER TABLE messages ADD COLUMN until_claimed {BOOL} NOT NULL DEFAULT {NO};

CREATE TABLE stock (
    sku VARCHAR(64) {C} NOT NULL PRIMARY KEY,
    on_hand BIGINT NOT NULL,
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    low_at BIGINT CHECK (low_at >= 0),
    version BIGINT NOT NULL CHECK (version >= 0),
    moved BIGINT NOT NULL CHECK (moved >= 0),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT stock_not_oversold CHECK (reserved <= on_hand)
);

CREATE TABLE stock_movements (
    id {UUID} NOT NULL PRIMARY KEY,
    sku VARCHAR(64) {C} NOT NULL REFERENCES stock (sku),
    number BIGINT NOT NULL CHECK (number > 0),
    kind VARCHAR(10) NOT NULL CHECK (kind IN ('received', 'adjusted', 'committed')),
    change BIGINT NOT NULL CHECK (change <> 0),
    on_hand BIGINT NOT NULL CHECK (on_hand >= 0),
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    low_at BIGINT,
    version BIGINT NOT NULL,
    reason TEXT,
    reference VARCHAR(64),
    message {UUID},
    actor VARCHAR(64),
    created_at BIGINT NOT NULL,
    CONSTRAINT stock_movements_committed CHECK ((kind = 'committed') = (message IS NOT NULL))
);
CREATE UNIQUE INDEX stock_movements_number ON stock_movements (sku, number);

CREATE TABLE products (
    sku VARCHAR(64) {C} NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    price_cents BIGINT NOT NULL CHECK (price_cents >= 0),
    currency VARCHAR(3) NOT NULL,
    attributes TEXT NOT NULL,
    artist VARCHAR(200),
    genre VARCHAR(200),
    release_year INT,
    words TEXT NOT NULL,
    available_from BIGINT,
    max_per_order INT CHECK (max_per_order > 0),
    active {BOOL} NOT NULL DEFAULT {YES},
    version INT NOT NULL CHECK (version > 0),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX products_artist ON products (artist, sku) WHERE artist IS NOT NULL;
CREATE INDEX products_genre ON products (genre, sku) WHERE genre IS NOT NULL;

ALTER TABLE customers ADD COLUMN nickname VARCHAR(64);
ALTER TABLE customers ADD COLUMN name VARCHAR(200);
ALTER TABLE customers ADD COLUMN birth_date VARCHAR(10);
ALTER TABLE customers ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE customers ADD COLUMN words TEXT NOT NULL DEFAULT '';
ALTER TABLE customers ADD COLUMN active {BOOL} NOT NULL DEFAULT {YES};
ALTER TABLE customers ADD COLUMN version INT NOT NULL DEFAULT 1;
ALTER TABLE customers ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE customers ADD COLUMN erased_at BIGINT;
UPDATE customers SET updated_at = created_at;
CREATE UNIQUE INDEX customers_nickname ON customers (nickname);

CREATE TABLE favourites (
    id VARCHAR(140) NOT NULL PRIMARY KEY,
    customer VARCHAR(64) {C} NOT NULL,
    sku VARCHAR(64) {C} NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX favourites_customer ON favourites (customer, sku);

CREATE INDEX events_subject ON events (subject, seq) WHERE message IS NULL;
"""

# Every purchase of a hot SKU rewrites its row: room on the page keeps those updates in place.
POSTGRES_TUNING = """
ALTER TABLE stock SET (fillfactor = 20, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0);
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    if db.capabilities.dialect == "postgres":
        return SCHEMA.format(**POSTGRES) + POSTGRES_TUNING
    return SCHEMA.format(**SQLITE)


DROPPED = {
    "messages": ["reserved", "until_claimed"],
    "customers": [
        "nickname",
        "name",
        "birth_date",
        "tags",
        "words",
        "active",
        "version",
        "updated_at",
        "erased_at",
    ],
}


async def downgrade(db: BaseDBAsyncClient) -> str:
    tables = ["favourites", "products", "stock_movements", "stock"]
    columns = [
        f"ALTER TABLE {table} DROP COLUMN {column};"
        for table, names in DROPPED.items()
        for column in names
    ]
    indexes = ["DROP INDEX events_subject;", "DROP INDEX customers_nickname;"]
    return "\n".join([*indexes, *(f"DROP TABLE {table};" for table in tables), *columns])


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXW1zozgS/isqf7nZKl8qdl4vd3VVmWx2N7d5mZ1k7rZqZ4so0La5gMQIkcS1t//9JI"
    "HBmJcAtolN9GUmltQCHolu9UOr9UfPpRY4/s6padKA8N4J+qNHsAvij8WqPuphz0sqZAHH"
    "D45qi8NGqhA/+JxhU3Y2wo4PosgC32S2x21KZOv/TChy8RT59pggm+xIKYuaQswm46IGAb"
    "G/BWBwOgY+ASaa/fa7KLaJBS/gz356j8bIBsdKPYltyQ5UucGnniq7IPwH1VBe+8EwqRO4"
    "JGnsTfmEkri1HQIwBgIMc5DdcxbIRyOB40QozJ42vNOkSXiLczIWjHDgSICkdHgDSVnPMK"
    "5v7ozb8zvD6GXAm0nMwRUVmZRI4G05DPLpx/IW/joc7B/tH+8d7h+LJuo245KjP8NLJ8CE"
    "ggqe67ven6oecxy2UBgnoAY+MPV3BtqzCWb52M7LLCAsbn0R4Rmemwuxi18MB8iYT8TPw/"
    "0SPP99+vnsp9PPHw73v5MXpOIFCd+c66hmqKok5AnEHvb9Z8osY4L9SR2cM4KrAXtWkKCd"
    "vOCtwz08OKiAt2hVCLiqSyPOqAN+HaRjgQ4ivPoJbQY+py6wOgjPyzQCOdII7wVjYXntpx"
    "yt/JGKqYpJPsiJ0ALED0JqXRN5pqrXAHIJqB9vbi5lz67vf3NUwcXdArpfrj6ef/4wUKCL"
    "RjaHeZOYQB2BIu+t+voiLfT6OmNVaA82ep2RgMpt8xG40QjbXFkN8SLEJgP55AbmOWrCHh"
    "fCm5ZrD9f1r5L/Nhzu7R0Nd/cOjw/2j44OjndjjLNVZWB/vPhR4p3SJ9kBcLDPDR+A1B6C"
    "RclGg7BpFrG1MZAe4uhxzp2RBQ/YfHzGYrGcqaFDWtQ2W+UO3cUSTPBYwSmfW95w5FKfzZ"
    "Y0Oe722dxyp9jfni2KKjrcn0RLSrCDpDeHHGHqfSR8aEDYoQT+juAJmJhIYpCQuBKgCRWP"
    "gYSbjWwr650v3duKXfnitWOuL689zdmisdi5J8KQ1nXu52X0Qv31hXptfDuL7XB3t4orv7"
    "tb7MrLujS84GLbqYNvLNBBgA+qzF7RqoQryczfB5vxiSFUSK1ZnJbqHtSDKlN5UDyTB5mJ"
    "zPE4h5K6g5ciJyhq3x4j1fvt996awC0B8+7817uUIz8D8cPV6a8KX3ca1VzeXP84az4H+t"
    "nlzccFsCVrWgvtWKBFuLsCtqaqWqOqxJLcr8elzEloBkUzKK9B2zKDEnhWowFIy7U3ALud"
    "Ql/A4zcAPyWmmastZK7OnyA/SiSs6JdxViCbVCSsbgiIKpPvoLsJINUFsn1EA/5AX/poYv"
    "ucsmkfMfAcGSdCA2YCwsRCrpg8zMYOGlEmCrAz5bbpZ0mstVxhCWLLh2/1XqZIYDUqbBMi"
    "VVrRYcWUl0IwMwLFjuysfQc//O8NK/iwe8NCH1ZWpQ2GHzz8F8wcc1GM75xIByEeVOMJyo"
    "iCLFPggu8LvZ1F+cuXi+/zUZ4TWUA5CGxrRwpun1kuQTacuocKVY/6fMxUpUJoAU3xKEEt"
    "jRALdI/VWj37PWLUNWpDnJbSOOuQq03AWK4p6nCGs/adsGttk4YW8NwPOyVwxxJdmMxt4/"
    "2AuZkTfFy8pIgFllhQbNEkr7Gi0Kzh+2VOfsBPNGAhP59hT5LKfhmDMpo1q8iinCKPUSsw"
    "OeITzBFGM8OOnrEYB8QpegTwECYIpoBozk6cZl3oAJ8lvcP9St7hfol3uL/7WozPm6wMN0"
    "4PrXlp6D8GtUiPsLmGtopno63pu7WmP8M0z47K4lIL+gjTqraTINsC16MciDkVRm66gy6I"
    "MIDhpwI6QrYwf/SZnIiyEWXymRABW9o7JCabI6R9RCiTlcIM5nyCWM8ltO1dTlHtVwpG3C"
    "8JRtzffdX2jsT9APNYpG4q019pMW0mKpiJNyPFNw3o5j7shij9q2hYchT/VTJixco/Gtbq"
    "zlPAzAn2QWhloYdtS34flrsYKLOA/UWW9MVvRoPxBGHHQYqXztPzTXv6Sr6SewYmiLu6V9"
    "+e758pewR2jx7AoWQs3S/ZjwOi8xPkA0cPU+mkOdh2++I/wAwsWab2ZCCXPoFy5L4SIJa4"
    "Lu8jeDHBU3KyJ7E28oBJg6P+slAEmvLy1E27yKczZ9ARsx+JsRUPgoj4/ysRD+ZzWzwCNm"
    "W3ooOAiN+qbwIvPLy1dRiq4tc511At9Sa/bq56/xgFxJRzCakryX/2/9nbuFe7zEipWWjU"
    "Sp4xL9KllfXKAgd9jnlQkGHgnASugvVC3AImJmTdw1h6k01/79P59fcX1z+eIE9oGYHuV/"
    "Lp883Z+e1tWMioKZSKKj+7ufp0eX53/v2JWNC6ngPi3r+SH04vLmXRCNuO/H12en12fqmK"
    "TImLo0rPf/108VmWwYtnCzW3qHffJlp/SwJtt+iV0TxVC6tkm4Nba99DLNAJeNv+qMYpx4"
    "5hzgIiq5NXC4I6iLZpCLMZMCZpl3paJZHpxLRfCPurEvVXHPSXyaUEI5Bw1QrwSQl14XP9"
    "2hV3wiAaj1BrOueIdg/xtaQJc4HjukE/8zKdUB5t20yP2ZTZPGeK37rYcQpN5rxclxbYe8"
    "Ojw9hEyh9lRvH26vTyMieDFaOBV0dnxALd0xRrSMXGxSLZy1viFU7WeZEuTdaVeYMO9bmh"
    "+M46sC5IaWRzkMVP2FbPWvuL+qJkl+Bte2cl4WL922BrZUpOD0DzAVBkol9/AFJy2i9v7J"
    "crgtdgIDDwG4X35HegR6TpiCizaYBH88LAiy1uWqpLGmllFjf6tFuPH4lFurcCX/2+0/Bz"
    "eR2AE4nu4TuoFNo0KAltGmTzrEUvekOzmSetVXVjVS2zwwJjNGfKFzNTaakuTPu2qSkxd+"
    "X918A8kdB4N8Ib2BPkRKaUIh7LaMzrY67iuAwVvpUHfGnOtoxsi6nb4pKtzd2mNzroZGPv"
    "ewBGNrH9SYMRWBDUK8st3OvzKdyA2ssJ+55V9cvCvqMNrJXPpsNchmfL5F4+dkQL8ft5Yp"
    "sT5DE7SgEm05CIQiBhQLfPqfkohTBi9Hlu407eyXar7n6ZnGNvuDlxg3b8tJBOv81U7xtn"
    "Mtaf6129Ok3C6RYEtYnW8XQbG0+Hubj4Q8DzPnwXu71pqU6g3Lbnixm3/VosfSLRBaahBQ"
    "UuAGG1LGQsoAGuBDCDkGmfAs7hhgvt46JYhxyolX3F24YjI7qkjeNgI+km1VvuZWU7NKFb"
    "XvBJneUBM9Qe5hoqJSPXoSFYXSyePhlFn4ySwlmfjLJ1llF/rHg3A7AhVPkvKjN2DlH+yy"
    "xldjFNHuYcqUaSnyLZvxXmKVGUtWSkfeBcDIe/g85oIJNDyqNhkU3Qvbq8KrzPS4+yXGcr"
    "ziNS+IJUzWoRWcTNJb9XovE12d3il4X57NfJbWUwLkuBnRLTZxXWdjtDHsQHcRt53v4rAY"
    "5zcu1Z1r01Hzq2sjWjfGca7JVbFGtxMb5NyDbbMZcj2R6+B1sCr1y10dGogVrIkdS+ZHZ/"
    "BAcib8Kw8LQOullBrXUz6Ho4aHKIY0qsQ9xdy266pp1WOpnVHgYVYFx/C8qiqJ7UjYNANP"
    "mnyb93PQAWqByWtQcgLac10LaSr4qX7BUxsGFt/1UaVkyMoPJZyT/RZyRuajpL1ezLCGEc"
    "0akykawlY4kZyESpoiN5pDG2JJN682HwXR9RAiqsOJLI8rNr6H8JynYjkhJ3mr+NkvbW9A"
    "oSofasx5o9rZZNR5IXuSb0KTmNfsOl6yz9dM2V67yYxr7h9i6V57se8ImMRn2ZTDu1gU+J"
    "aeyXyTJVE/k5IY371rkHn+GJmjiCKeMezNWWugcsblc5VMMUc0ay4dgJj20RKzV5JgyMKA"
    "MVasFtF9QRY9i1nWlfHkBmm48gVvKUiR+S7hVr+hEDf4I4fYTcY0LXdBV9mtmSKX+GlVL+"
    "DEtS/gxfP0lU036bYE7eJGnh+x2ADbErt3J3eJ5JCStKrYkfN6nOMiny5/bnL/JIL6HaMY"
    "MddKoKnm0xfwIebVO35dGUHCkmC6wT5FPHipsI61BCNK30Enp//KZEsRUbEAHXBJOay+E5"
    "Ia25GpuO4lRaZdiXJNPS4FcH36HP9T9XxzL6K9HKgy/KgO/oOW1tbxuktZVNLKJh15EZ2z"
    "oAOjLjnbtoV0KLuZAfHJBu0H/VZTPcqG1FEvCGAHJs8Y/wrMLzoq0xMPnrPlpF358gcU1F"
    "2vURkadFI1OUj5OfHgsI5HhtK+5bnwq9sves5JVZ4lTot3SK31pxrXlzFwnch7xcCmX2IZ"
    "HRtqGxcX6088iH4kk9a9/BWb36E7FDXV9z2RnL6FndeFZrVk2zau8RfM2qaVbtnUHPAPv1"
    "MgIkEl3IoNh2NgB9tnl25bh6fyjacFDHq58TWcK13zCcl3HkUznl8s6FKsliOxPQc/X1ua"
    "oJ9vfM74pBdHu5xK6q6ZczunGbSkQuo88nimmdyH1WEesKT0A4cug4PDJCRsc48tSIsf0E"
    "PgpJIl9uyjKp69ocqeyb+WTuivtfMaF762LHWTpH1+ZH4ITv0N7w6DB+a+SPsvfk9ur08v"
    "L1/V1yWOvpqJmE1k6NF+i1j1TX5mDJkNj884qLVztFRxV3gtQ9rELqHhaTuoeLy52RQ/MW"
    "k6U7tmYielY3ntX+M+SdF10GeyyiYW8Me5gb1WhEcGVl9UAswXPF25+ajUZBB3pIGg/JhN"
    "ZL9zpr30UzOzyutNnquGSz1fF3m+PXngKzzUkvx6+Navplfi1O2rzm1xbjrZM7b1ZykEKl"
    "W/zCF6vZLrzzw4ODCu+8aFV8WpOsW/AWxUtVA+GoeQfRHVQ6C2tQchbWIHsWlrgij+Is0w"
    "j/6/bmuoClTUQWULZsk6P/ISc6723L0C4BV4JR/t1s8RNZP/0JQnbw8a2N2Z//Bw1wzaA="
)
