"""Stock with its ledger, products, the directory of customers, favourites.

Written by hand like the first one: CHECKs and partial indexes, one file for both databases.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

POSTGRES = {"UUID": "UUID", "BOOL": "BOOLEAN", "YES": "TRUE", "NO": "FALSE", "C": 'COLLATE "C"'}
SQLITE = {"UUID": "CHAR(36)", "BOOL": "INT", "YES": "1", "NO": "0", "C": ""}

SHARDS = ", ".join(f"({n})" for n in range(64))

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
ALTER TABLE customers ADD COLUMN erased_at BIGINT
    CONSTRAINT customers_erased CHECK (erased_at IS NULL OR (nickname IS NULL AND name IS NULL
    AND email IS NULL AND birth_date IS NULL AND tags = '[]' AND words = '' AND NOT active));
UPDATE customers SET updated_at = created_at;
CREATE UNIQUE INDEX customers_nickname ON customers (nickname);
CREATE INDEX customers_newest ON customers (created_at, id) WHERE erased_at IS NULL;

CREATE TABLE customer_counts (
    shard INT NOT NULL PRIMARY KEY,
    active BIGINT NOT NULL DEFAULT 0,
    inactive BIGINT NOT NULL DEFAULT 0
);
INSERT INTO customer_counts (shard) VALUES {SHARDS};
UPDATE customer_counts SET active = (SELECT count(*) FROM customers) WHERE shard = 0;

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
ALTER TABLE customer_counts SET (fillfactor = 20, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0);
"""

# A part of a word is found by an index only where trigrams are there and may be used; without
# them the directory is searched from its newest end.
POSTGRES_TRIGRAMS = """
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
        CREATE INDEX customers_words ON customers USING gin (words gin_trgm_ops);
    END IF;
EXCEPTION
    -- Not ours to create; or its library is missing; or it stands in a schema out of sight.
    WHEN insufficient_privilege OR undefined_file OR undefined_object THEN NULL;
END $$;
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    if db.capabilities.dialect == "postgres":
        return SCHEMA.format(**POSTGRES, SHARDS=SHARDS) + POSTGRES_TUNING + POSTGRES_TRIGRAMS
    return SCHEMA.format(**SQLITE, SHARDS=SHARDS)


DROPPED = {
    "messages": ["reserved", "until_claimed"],
    "customers": [
        "erased_at",
        "nickname",
        "name",
        "birth_date",
        "tags",
        "words",
        "active",
        "version",
        "updated_at",
    ],
}


async def downgrade(db: BaseDBAsyncClient) -> str:
    tables = ["favourites", "customer_counts", "products", "stock_movements", "stock"]
    columns = [
        f"ALTER TABLE {table} DROP COLUMN {column};"
        for table, names in DROPPED.items()
        for column in names
    ]
    indexes = [
        "DROP INDEX events_subject;",
        "DROP INDEX customers_nickname;",
        "DROP INDEX customers_newest;",
    ]
    return "\n".join([*indexes, *(f"DROP TABLE {table};" for table in tables), *columns])


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXW1z47YR/isYfellRvVY8mvdTmd8jpO48cvl7Gszk8vQEAlJrEmAB4CWNWn+ewGQok"
    "TxxQQl0RKNL3cWiOXLA3AX+3Cx+0fHJw7y2N65bZMQ884Z+KODoY/EH8uHuqADg2B+QDZw"
    "OPBUXxh1Uo1wwDiFtjzZEHoMiSYHMZu6AXcJlr3/MybAh1PA3BEGLt6TUg6xhZiLR0UdQu"
    "x+C5HFyQjxMaKi22+/i2YXO+gFsdnP4MkaushzUk/iOvIEqt3i00C1XWH+g+oorz2wbOKF"
    "Pp53DqZ8THDS240AGCGMKORInp7TUD4aDj0vRmH2tNGdzrtEt7gg46AhDD0JkJSObmDe1r"
    "Gs27sH6/7ywbI6GfBmEgtwxU02wRJ4Vw6DfPqRvIW/9nuHJ4enB8eHp6KLus2k5eTP6NJz"
    "YCJBBc/tQ+dPdRxyGPVQGM9BDRmi6u8MtBdjSPOxXZRZQljc+jLCMzy3F2IfvlgewiM+Fj"
    "+PD0vw/Pf554ufzj9/OD78Tl6QiBckenNu4yN9dUhCPoc4gIxNCHWsMWRjHZwzgusBe9Yw"
    "R3v+gjcOd//oqALeolch4OpYGnFKPMR0kE4EWojw+ie0HTJOfER1EF6UqQVyrBHeC8bC8r"
    "rPOVr5IxFTFeJ8kOdCSxAPhNSmJvJMVW8A5BJQP97dXcsz+4x981TD1cMSul9uPl5+/tBT"
    "oItOLkeLJnEOdQyKvLfq64u00OvrjHWh3dvqdcYcVO7aT4hbtbDNlTUQL0NsUySf3II8R0"
    "24o0J403LN4br5VfLf+v2Dg5P+/sHx6dHhycnR6X6CcfZQGdgfr36UeKf0SXYAPMi4xRDC"
    "2kOwLFlrELbNIjY2BtJDHD4tuDOyYQDtpwkUi+XMEdInRX2zh/y+v9wCMRwpOOVzyxuOXe"
    "qL2ZImx92+WFjuFPvbs0VRRYf7k+hJMPSA9OaAJ0w9A8KHRgB6BKO/A/SMqJhIYpCAuBIC"
    "YyIeAwg3G7hO1jtf+WxrduWL1465vrzxNGeLxmLnHgtDquvcL8qYhfrrC3VtfFuLbX9/v4"
    "orv79f7MrLY2l4kQ9dTwffRKCFAB9Vmb2iVwlXkpm/A5fysSVUiNYsTku1D+pelancK57J"
    "vcxE5nCUQ0k9oJciJyju3xwj1fnt986GwC0B8+Hy14eUIz8D8cPN+a8KX38aH7m+u/1x1n"
    "0B9Ivru49LYEvWVAvtRKBBuNsCtqGqGqOqxJKc6XEpCxKGQTEMymvQNsyghIFTawDScs0N"
    "wH6r0BfwsBrgp8QMc7XDzNVFUbRIukO3Codl6YSO/EQmQNzdFCQMmCSWJPdE0ZnimFjoAz"
    "IE0PMAJRO2B25E9y5gRByFHGAyIM4UTKDLGRgSCghGWYprc5dZgftiwqnSiWRJ+q9HzbU6"
    "mqVwKVqizgpXosaOVLQjLq6D+6KUQX7nbMjlM8q3HdGBUpuBZJeKpuIOI3HI5nvgQehrdQ"
    "rgMkBCPiAvXTB2hWanQmVTFHgy1pCE1BYKHjtC83NEXegpxS0ew5ty12ZZK7GRK6xiINA3"
    "vTcpFmiPfWhEfxVbEYVgZgSKydBZ/xYGjx30K/CgB/1CHlQeShsLFg7+i+wcl6MY3wWRFk"
    "Lcq8Y1l5HNWbbZR4wJvZ1F+cuXq+/zUV4QWUI5DF1nTwrunmtXgmw0dY8VqgFhfETVQYXQ"
    "EpriUUItjZAItO/LyPq/oA4p8S1tiNNSBmcTtrsNGMs1hc53p1n/Vti1pj88OYjnBgeUwJ"
    "1ItGEyN433AHI7ZwNL8ZIiEVhhQbFDk1xjRWG+PL1f5uQH+ExCGn3jzbAn84PdMgZlOOtW"
    "kUU5BwElTmjziNeGCSMOJlCMA+AEPCEUAIgBmiJAcnZz1juFCRJd0Ts8rOQdHpZ4h4f7r8"
    "WJvsnKcOv00IaXhuwp1CI9ou4G2iqejbGm79aa/oymeXZUNpda0Cc0rWo7MXAd5AeEI2xP"
    "hZGb7oErLAxg9KmADIH8Okwm+Ey0DQmVzwQwcqW9A2KyeUKaAUyoPCjMYM4niM1cwtje1R"
    "TVYaWA9sOSgPbD/Vdt71DcD6IBjdVNZforLWbMRAUz8Wak+LYBXd+H3RKlfxMPS47iv5mP"
    "WLHyj4e1uvMUUnsMGRJaWehh15Hfh2X4EKEOon+RLV3xm5JwNFaxRIqXztPzdc/0FX/Fjx"
    "TZSNzVo/r2/Dgh9AnRRzBAHsEj6X7J83hInPwMMMTBYCqdNA+6flf8hyBFjmxT+/qAT56R"
    "cuS+YoQdcV3eBejFRoGSk2cSa6MAUWlw1F8OiEFTXp66aT+Jk4LAE7MfiLEVDwKw+P8rFg"
    "/GuCseAdrytOIEIRa/1bkxeuHRrW3CUBW/zrmGaqU3+XVz1fnHMMS2nEtAXUn+c/jPzta9"
    "2mVGSs1CSysB06JIm1bWaws+ZxzysCBLzSUOfQXrlbgFiG2UdQ8T6W02/Z1Pl7ffX93+eA"
    "YCoWUEul/xp893F5f391EjJbZQKqr94u7m0/Xlw+X3Z2JB6wceEvf+Ff9wfnUtm4bQ9eTv"
    "i/Pbi8tr1WRLXDzVevnrp6vPsg29BK5Qc8t69212fO3IZo0demUMT9XAKtnlyNfaO5cItA"
    "Lepj+qccKhZ9mzgMjq5NWSoNmIUTd82Q4plbSLnlaZy7Ri2i+F/VWJ+isO+svk40NDJOHS"
    "CvBJCbXhc/3GFfecQbSekNZ0zhFtH+IbSTXpIw51g34WZVqhPJq2mQF1CXV5zhS/96HnFZ"
    "rMRbk2LbAP+ifHiYmUP8qM4v3N+fV1ThZESsJAR2ckAu3TFBtI58nFIjnIW+IV70tbEGnT"
    "ZF2bN+gRxi3Fd+rAuiRlkM1BFj5DVz2r9hf1Zck2wdv07nzMxfq3xvb8lJwZgPoDoMhEpj"
    "8AKTnjl9f2yxXBa1EkMGC1wnvyT2BGpO6IKLNpoYDkhYEXW9y0VJs00tosbvxpV48fSUTa"
    "twJf/77T6HO5DsBzifbh26sU2tQrCW3qZXN1xi96TbOZJ21UdW1VLTOMI0pJzpQvZqbSUm"
    "2Y9k1TU2LuyvvXwHwuYfCuhTeizygnMqUU8UTGYK6PuYrjslT4Vh7wpXk/M7INpv9MWnY2"
    "/6fZ6GASVr7vARi62GXjGiOwJGhWlju41+dTtAG1kxP2PTvULQv7jjewVq5vCrkMz5bJvR"
    "j0RA/xezJ27TEIqBunAJNpSEQjwlFAN+PEfpJCUOaTXNi4k1cddd2nXyXn2BtuTtyiHT8N"
    "lGRpslzI1pmMzdcLUa9OnXC6JUFjok083dbG00EuLj4Ied6H72K3Ny3VCpSb9nwh5S7TYu"
    "nnEm1gGhpQ4AIQqmUhEwEDcCWAKYqY9imCOdxwoX1cFmuRA7W2r3i7UHaoTdo4CTaSbpLe"
    "ci8r26IJ3fCCT+qsAFFL7WHWUCkZuRYNwfpi8Ux1LVNdK4Wzqa61c5bRfKx4NwOwJVT5Ly"
    "ozdg5R/sssZXYxTR7lHKlGkp8DeX4nylOiKGvJSDPEuRgOtgdUBSmmyosDF4NHdXnV+JiX"
    "HmW1k605j0hx6ZqKWS1ii7i95PeGyzEZsnuTqcYXbiuDcVkK7JSYqXer7XZGPAhD4jbyvP"
    "1XAhwX5JqzrAcbLnu1tjWjfGdq7JVbFmtwMb5LyNbbMZcj2Ry+RzsCr1y1keGwhlrIkTS+"
    "ZHZ/BEdY3oTlwKkOullBo3Uz6AYwrFMIOCXWIu6uYTfd0E5rncxqD4MKMNbfgrIsaiZ17S"
    "AQQ/4Z8u9dD4CDVA5L7QFIyxkNtKvkq+IlO0UMbHS0+yoNKyZGWLlWclLvfpbfWtW2j+lU"
    "mUjWkbHEFMlEqeJEsqQxdCSTeveh911XFrdXYcWxRJaf3cD5V6BstyIpcav52zhpr6ZXMB"
    "cyZd3rmY55XmRN6FNyBv2aS9dZ+mnNleuimMG+5vYuledbD/i5jEF9lUw72sCnxAz2q2SZ"
    "0kR+QcjgvnPuwWf0TGwYw5RxDxaOlroHNOlXOVTDFnNGsuHQi8q2iJWarAmDhoQiFWrBXR"
    "+pEmPQd71pVxYgc+0nJFbyhIofku4Va/ohRWwMOHlCuWVCN3QVU81sxZQ//Uopf/olKX/6"
    "r1cSNbTfNpiTN0la+H4HYEvsyr3cHZ5nUqIDpdaEJV2qs0yK/Ln/+Yss6SVUO6RoD5yrho"
    "kr5k/I423qrixNyYFispBzBhjxnKSLsA4lRNNaL2H2x29LFFuxARFwjSHWXA4vCBnNVdt0"
    "FKfSKsO+JJmWAb86+B6Z6H+uTmTMV6K1B1+UAd/SOm1Nbxsk2somETGwm8iMXR0AE5nxzl"
    "20G6HFfJQfHJDu0H3VZbP8uG9FEvAOI+C54h/hWUX1op0RovLXY7yKfjwD4pqKtOsCLKtF"
    "A1u0j+Y/AxpilOO1rfncpir02t6zkldmharQb+kUv7Xi2vDmLhz6g7xcCmX2YS5jbENt4/"
    "zk5pEPxZN61r+Fs3r9FbEjXa+57ExkzKyuPasNq2ZYtfcIvmHVDKv2zqCnCDK9jABziTZk"
    "UGw6G4CpbZ5dOa7fH4o3HOh49QsiK7j2W4bzKo58KqdcXl2okiy2MwEzV1+fq4Zgf8/8rh"
    "hEv5NL7Koj3XJGN+lTicilZHKmmNax3GcVs67oGWEOPDKKSkbI6BhPVo0Yuc+IgYgkYnJT"
    "lk183+VAZd/MJ3PXfP41E7r3PvS8lXN0bX8ETvQOHfRPjpO3Rv4oe0/ub86vr1/f3yWHVU"
    "9HzSSMdqq9QNcuqW7MwYohsfn1iotXO0WliltB6h5XIXWPi0nd4+XlztAjeYvJ0h1bMxEz"
    "q2vPajZBefWiy2BPRAzstWGPcqNatQiurKwZiBV4rmT7U73RKDiBGZLaQzImeuleZ/3baG"
    "b7p5U2W52WbLY6/W57/NpzRF173Mnxa+Mj3TK/Fs77vObXFuNtkjtvV3KQQqVb/MIXq9k2"
    "vPP9o6MK77zoVVytSR5b8hbFS6WBcNy9hej2KtXC6pXUwupla2GJK/I4zjKN8L/u724LWN"
    "q5yBLKjmtz8D/gxfXedgztEnAlGOXfzZY/kXXTnyDkCT6+tTH78/8Mg8pX"
)
