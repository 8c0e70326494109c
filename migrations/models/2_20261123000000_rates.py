"""Rates of the queues, folded from the log; indexes of dead letters by their error
and of messages by their reference.

Written by hand like those before it: one file for both databases.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

POSTGRES = {"C": 'COLLATE "C"', "NOW": "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"}
SQLITE = {"C": "", "NOW": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"}

# The last week of a log that is there already is folded when the service starts. Its first
# events may be gone up to the floor, and after it none is missing.
SCHEMA = """
CREATE TABLE queue_rates (
    queue_id INT NOT NULL REFERENCES queues (id),
    span SMALLINT NOT NULL CHECK (span IN (60, 1800)),
    at BIGINT NOT NULL,
    entered BIGINT NOT NULL DEFAULT 0 CHECK (entered >= 0),
    claimed BIGINT NOT NULL DEFAULT 0 CHECK (claimed >= 0),
    returned BIGINT NOT NULL DEFAULT 0 CHECK (returned >= 0),
    done BIGINT NOT NULL DEFAULT 0 CHECK (done >= 0),
    failed BIGINT NOT NULL DEFAULT 0 CHECK (failed >= 0),
    dropped BIGINT NOT NULL DEFAULT 0 CHECK (dropped >= 0),
    PRIMARY KEY (queue_id, span, at),
    CONSTRAINT queue_rates_aligned CHECK (at % (span * 1000) = 0)
);

CREATE TABLE rates_mark (
    id SMALLINT NOT NULL PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL CHECK (seq >= 0)
);
INSERT INTO rates_mark
    SELECT 1, coalesce(
        (SELECT e.seq - 1 FROM events e WHERE e.created_at >= {NOW} - 604800000
            AND e.seq > s.floor ORDER BY e.created_at, e.seq LIMIT 1),
        s.head)
    FROM stream s;

CREATE INDEX queues_name ON queues (name);

CREATE INDEX messages_failed ON messages (queue_id, last_error {C}, finished_at, id)
    WHERE status = 'failed';
CREATE INDEX messages_reference ON messages (reference, id) WHERE reference IS NOT NULL;
"""

# Each of the two is rewritten every second: room on their pages keeps those updates in place.
POSTGRES_TUNING = """
ALTER TABLE queue_rates SET (fillfactor = 80, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE rates_mark SET (fillfactor = 20, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0);
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    if db.capabilities.dialect == "postgres":
        return SCHEMA.format(**POSTGRES) + POSTGRES_TUNING
    return SCHEMA.format(**SQLITE)


async def downgrade(db: BaseDBAsyncClient) -> str:
    return """
DROP INDEX messages_reference;
DROP INDEX messages_failed;
DROP INDEX queues_name;
DROP TABLE rates_mark;
DROP TABLE queue_rates;
"""


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXWtz2zYW/SsYfdlkRuux5Eeybqczjut2vfUjjZ3dzjQdGSIhiSsSYADQiqbb/74A+B"
    "LFhwnqYYnGl8QCcPg4AO/Fvbi4+LPjERu57ODcskiAeecM/NnB0EPij+WqLuhA308rZAGH"
    "Q1e1hWEjVQiHjFNoyYuNoMuQKLIRs6jjc4dg2fo/EwI8OAfMGWPg4AOJsoklYA4elzUIsP"
    "M1QANOxohPEBXNfv9DFDvYRt8Qi3/608HIQa6deRPHlhdQ5QM+91XZFeY/qYby3sOBRdzA"
    "w2ljf84nBCetnZCAMcKIQo7k5TkN5KvhwHUjFuK3DZ80bRI+4gLGRiMYuJIgiQ4fIC3rDA"
    "a3dw+D+8uHwaCTIy9GLNAVFVkES+Id2Q3y7cfyEf7e7x2/O35/dHr8XjRRj5mUvPsrvHVK"
    "TAhU9Nw+dP5S9ZDDsIXiOCU1YIiqv3PUXkwgLeZ2EbPEsHj0ZYZjPneXYg9+G7gIj/lE/D"
    "w9ruDz3+efLv55/unN6fFbeUMiPpDwy7mNavqqSlKeUuxDxmaE2oMJZBMdnnPA9ZAdF6Rs"
    "px/41unun5zU4Fu0KiVc1WUZp8RFTIfpBNBChtc/oK2AceIhqsPwIqYRyZFEeC0cC83rPB"
    "VI5Q9EDFWIi0lOQUsUDwVqUwM5FtUbILmC1A93d9fyyh5jX11VcPWwxO7nmw+Xn970FOmi"
    "kcPRokpMqY5Ikc9Wf36RBT0/z1gX272dnmekpHLHmiI+aMRtIdZQvEyxRZF88wHkBWLCGZ"
    "fSm8Vtj9fNz5L/0e8fHb3rHx6dvj85fvfu5P1hwnG+qorsD1c/S74z8iTfAS5kfMAQwtpd"
    "sIxs1Am7phG31gfSQhxNF8wZWTCE1nQGxWQ5V0P6pKxtvsrre8slEMOxolO+t3zgyKS+iK"
    "c0Beb2xcJ0p9zejidFNQ3uj6IlwdAF0poDrlD1DAgbGgHoEoy+A+gJUTGQRCcBcScEJkS8"
    "BhBmNnDsvHW+8tXWbMqXzx0LbXljacaTxnLjHgtFqmvcL2LMRP35ibo2v63ltn94WMeUPz"
    "wsN+VlXZZe5EHH1eE3AbSQ4JM6o1e0qvCV5Mbv0KF8MhAiRGsUZ1Hto7pXZyj3ykdyLzeQ"
    "ORwXuKQe0LcyIyhqvz2PVOf3PzobIreCzIfL3x4yhnxM4pub898Uv948qrm+u/05br5A+s"
    "X13YclsqXXVIvtBLBFuttCtnFVbc1VJabkTM+XsoAwHhTjQXmO2i17UALfbtQBWdz2OuCw"
    "VewLelgD8jMw47naY8/VRVm0SLZBt44Pa6ATOvJPMgPi6eYg8YBJx5L0PVF0pnxMLPAAGQ"
    "HouoCSGTsAN6J5FzAiaiEHmAyJPQcz6HAGRoQCglHexbW526zg+2LCqNKJZEnar0fMtTqa"
    "pXQqWiHOSmeiRo/U1CMObsL7Isowv3c65PIJFeuOsKJSZyDZpKaquMNIVFn8ADwIea0uAR"
    "wGSMCH5FsXTBwh2akQ2RT5row1JAG1hIDHtpD8HFEHukpwi9dw59yxWF5LbOQOqygI9FXv"
    "S4oA7dEPW5Ff5VpEMZjrgXJnaNy+hcFjR/0aftCjfqkfVFZllQULhv9FVoHJUc7vAqSFFP"
    "fq+ZqrnM15b7OHGBNyO8/y589XPxazvABZYjkIHPtAAvfPtKtgNhy6p4pVnzA+pqpSMbTE"
    "pniVQEsiJID2rYysfwV1RIk30KY4izI8m7DdXeBYzil01p3i9q3Qa9teeLIRLwwOqKA7Qb"
    "RhMG+b7yHkVsEGlvIpRQJYYUKxR4NcY0ZhVp5er+fkJ/hEAhqu8ea8J2llt8qDMoqb1fSi"
    "nAOfEjuweOjXholHHMyg6AfACZgi5AOIAZojQAp2cza7hAkSXdE6PK5lHR5XWIfHh8/Fib"
    "7IzHDn5NCGp4ZsGmg5PcLmhto6lo3Rpq9Wm/6C5kV6VBZXatApmtfVnRg4NvJ8whG25kLJ"
    "zQ/AFRYKMFwqICMgV4fJDJ+JshGh8p0ARo7Ud0AMNlegGcCEykqhBguWIDZzC6N7VxNUx7"
    "UC2o8rAtqPD5/VvSPxPIj6NBI3td1fWZhREzXUxIs5xXeN6OY27I4I/ZuoWwoE/03aY+XC"
    "P+rW+sZTQK0JZEhIZSGHHVuuD8vwIUJtRP8mS7riNyXBeKJiiZRfukjON73SF/wFP1JkIf"
    "FUj2rt+XFG6BTRRzBELsFjaX7J67hIXPwMMMTBcC6NNBc6Xlf8hyBFtixT+/qAR56QMuS+"
    "YIRtcV/eBeibhXyFk1cScyMfUalw1F82iEhTVp56aC+Jk4LAFaMfiL4VLwKw+P8LFi/GuC"
    "NeAVrysuICARa/1bUx+sbDR9uEoir/nAsV1Upf8vPqqvP9KMCWHEtA3Un+c/xDZ+c+7Sol"
    "pUbhQCsB0yKkTTPrtQWfMw55UJKl5hIHnqL1SjwCxBbKm4cJepdVf+fj5e2PV7c/nwFfSB"
    "nB7hf88dPdxeX9fVhIiSWEiiq/uLv5eH35cPnjmZjQer6LxLN/wT+dX13LohF0XPn74vz2"
    "4vJaFVmSF1eVXv728eqTLEPffEeIuWW5+zI7vvZks8YefTLGT7WFWbLDkae1dy4BtILebS"
    "+qccKhO7DigMj6zqsloNmI0TR82QoolW4XPamSYlox7JfC/upE/ZUH/eXy8aERknRpBfhk"
    "QG1Yrt+44E49iIMp0hrOBdD2Mb6RVJMe4lA36GcR0wrhsW2d6VOHUIcXDPF7D7puqcpcxL"
    "Vpgn3Uf3eaqEj5o0op3t+cX18XZEGkJPB1ZEYCaJ+k2EA6Ty4myX7RFK98X9oCpE2DdW3W"
    "oEsYHyh/pw6tSyjDbAGz8Ak66l21V9SXkW2id9u78zEX898G2/MzONMBzTtAOROZfgdkcM"
    "Yub2yXKwfvgCLBAWsU3lN8AdMjTXtEqc0B8klRGHi5xs2i2iSR1qZxo6VdPf9IAmnfDHz9"
    "+07D5XIdglNE+/jt1Qpt6lWENvXyuTqjD72h2ixCG1HdWFTLDOOIUlIw5Ms9U1lUG4b9tl"
    "1TYuzK59fgPEUYvhvxjegTKohMqWQ8wRjO9TlXcVwDFb5VRHxl3s8cdovpP5OSvc3/aTY6"
    "mISVr7sDRg522KRBDywBzcxyD/f6fAw3oHYKwr7jqm5V2He0gbX2+aaQy/BsmdyLQVe0EL"
    "9nE8eaAJ86UQowmYZEFCIcBnQzTqypBEGZT3Jh407R6ajrvvwqOcdecHPiDu342cKRLNs8"
    "LmTnVMbmzwtRn06TcLoloFHRJp5uZ+PpIBc3Hwa8aOG73OzNolrB8rYtX0i5w7S89CmiDZ"
    "6GLQhwQQjV0pAJwBBci2CKQk/7HMEC33CpflyGtciAWtsq3j4cO9QmaZwEG0kzSW+6l8e2"
    "aEBvecInZZaP6EDtYdYQKTlci7pgfbF45nQtc7pWhmdzutbeaUazWPFqOmBHXOW/qszYBY"
    "7yX+OU2eVu8jDnSD0n+TmQ17fDPCXKZS090gxxLrqDHQB1ghRTx4sDB4NHdXtV+FiUHmW1"
    "i605j0j50TU1s1pEGnF3nd8bPo7JOLs3mWp84bFyHFelwM7AzHm32mZn6AdhSDxGkbX/TI"
    "DjAm57mvVow8derW3OKL+ZBnvllmFbnIzvE7PNdswVILfH78me0CtnbWQ0aiAWCpDGlszv"
    "j+AIy4cY2HCuw24eaKRujl0fBk0OAs7AWuS727KZbtxOax3Mag+DCjDW34KyDDWDunEQiH"
    "H+Geffq+4AG6kcltodkMUZCbSvzlfll+yUeWDD2u6zblgxMILaZyUn593H+a3V2faRO1Um"
    "krVlLDFFMlGquJA80hja0pN696b3tisPt1dhxREi75/dwPVXcNnuRFLiVvtvo6S9mlZBCj"
    "LHujdTHWleZE3qMzjDfsOpa5x+WnPmuggz3Dfc3qXyfOsRn2IM66tk2tEmPgMz3K+SZUqT"
    "+QWQ4X0/zYNPsPgA0LSyhnEgu1hnN+NEXFCMDDUnj+ft4k85MRd4xK2JnNFzx0PhQWOurX"
    "5PkDw1BnPgknHJRsZ1XFkecnPjYLlDBUAqD5rxudoeCYEN511xD3cEJiSgLCqdITQ9AA8T"
    "2XQut0W+iSf4XcB8iOWWyrfffcEPhHLiMNEMkxmTjZXlIh8u/KbEn+7c2CO7bo/IPs2zW5"
    "3zN8a0yZO1jny/2pk9jT9wRUUf5uXUVPQpyCj6hpPb0jw1VVPb0gQ1hveavAulH1CsS/wi"
    "yjDfcOVBTGw01xwihGHcuC32h3WbEmF0aNK+ADK8753pLA1jdgPptFNgOqeV3SrTWRnNAy"
    "9u96zlfBcuW50J03Mm2tDwnFUyBjPIlCWrrF5OwOOCUV6wu2GF66x5Y0O1xdQ2c7S5tVRh"
    "iaKvemInAhj7aS+lDnoiFoxoyoudtLZa7iTtau+tsoTtJ8NXoRues4ywFBJDNCIUqb1RiU"
    "MNeo4774q/uGNNEe8C5SCT8ZmAohFFbAI4maKCPGQbu8uahVbV6WUFn9b+JyPr9Wvl6O5X"
    "5OjuHz6Xj8zE6b20W+jlThl5vR2wI3rlXqZzLFIpYUWlNmFJk/phYSpa6/6Xz3LmKUQ7pO"
    "gAnKuCmSPGT8CjvJIOA5hwoELPkH0GmFyuiZsI7VARGbbWW5iElruy7bRcgQi6JhBrGuEL"
    "ICO5VvCwluW+r/awlma/N+TXJ98lM/39JQnGhHWvfbdUFfEvsmGqddR7RFvYJBBDu9lKta"
    "8dYLZSvXIT7UZIMQ8V7+bJNug+a7INvKhtTSegXDVwHfFPFC7nInuMqPz1GM2iH8+ACr6z"
    "kd0FGAldByxRPk5/+jTAqMBqW/O11+zw+/z56kcNh18QOPaBxGzGZOt8PwqwJXsFqDvJf4"
    "5/6GzoO6v4ZMJk4afKZPMJ42OqKhVdz61avKBR/NKCa8PZmHDgDYuSn1bphxRjdENj5Tx1"
    "ipwP5YM6bt/CUd2rd6ZnxZGey6M6lPWa084EY0Z141FtvGrGq/YayTdeNeNVe2XUUwSZXg"
    "rPFNGGI08qCNzQicEjJM+a0spMmwG1gfVN20NRhhAdq34BsoJpv2M8r2LIZw6BKDrIveLY"
    "qRhgxurzY9U42F+zf1d0otcpdOyqmm61RzdpUz+MXHpaJzIxUm4DtDrjVUbHuPKY17HzhB"
    "gInURMbqa2iOc5HKjjcirCy9d3fRN2vmNh57Jb9WRUjDDSqfEE3eyU3nZIrE+sic5sJwG0"
    "0al7Wsepe1ru1D1dnu6MXFI0mazcqxhDzKhuPKrZDPmakiSBGNob0x4eZjRo5ODKY01HrO"
    "DnSrY/NeuNkguYLmncJROidz5T3L6Narb/vtZmq/cVm63ev90du/YcUceadArs2qimW2XX"
    "wrTNc3ZtOd/mNLbdyp5VKnTLP/hyMduGb75/clLjmxetyo9Xl3VL1qL4qDQYjpq3kN1erc"
    "PrexWH1/fyh9eLO/IozjLL8L/u725LvLQpZIll27E4+B9wHbaPU4YKciUZ1etmy0tk3ewS"
    "hLzAh5dWZn/9H4o69Aw="
)
