"""What admins did.

Written by hand like those before it: one file for both databases.
"""

from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True

POSTGRES = {"UUID": "UUID"}
SQLITE = {"UUID": "CHAR(36)"}

SCHEMA = """
CREATE TABLE actions (
    id {UUID} NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    account VARCHAR(64) NOT NULL,
    action VARCHAR(64) NOT NULL,
    target VARCHAR(128),
    detail TEXT CONSTRAINT actions_detail CHECK (length(detail) <= 4096),
    status SMALLINT CHECK (status BETWEEN 100 AND 599),
    code VARCHAR(64),
    request_id VARCHAR(36) NOT NULL,
    address VARCHAR(64) NOT NULL,
    CONSTRAINT actions_code CHECK (code IS NULL OR status >= 400)
);
CREATE INDEX actions_at ON actions (at, id);
CREATE INDEX actions_account ON actions (account, at, id);
CREATE INDEX actions_action ON actions (action, at, id);
CREATE INDEX actions_target ON actions (target, at, id);
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    return SCHEMA.format(**(POSTGRES if db.capabilities.dialect == "postgres" else SQLITE))


async def downgrade(db: BaseDBAsyncClient) -> str:
    return "DROP TABLE actions;"


# What the models looked like, for aerich to compare with.
MODELS_STATE = (
    "eJztXetv4zYS/1cIf+kW8AWJ89hcejggm6ZtrnlsN+ldgW7h0NLY1lkivRSVrNHr/34kJU"
    "uW9Ygoy46t8MtuTHL0+JGaF4czf3Y8aoPr751bFg0I75yhPzsEeyD+WO7qog6eTpMO2cDx"
    "wFVjcThINeKBzxm25MWG2PVBNNngW8yZcocSOfo/Y4o8PEO+MyLIIXuSyqaWIHPIqGhAQJ"
    "wvAfQ5HQEfAxPDfv9DNDvEhq/gz39OJ/2hA66dehPHlhdQ7X0+m6q2K8J/UAPlvQd9i7qB"
    "R5LB0xkfUxKPdkIARkCAYQ7y8pwF8tVI4LoRCvO3DZ80GRI+4gKNDUMcuBIgSR0+QNLW6f"
    "dv7x7695cP/X4nA96cYgGuqMmiRALvyGmQbz+Sj/C33sHR+6PTw5OjUzFEPWbc8v6v8NYJ"
    "MCGhguf2ofOX6scchyMUxgmogQ9M/Z2B9mKMWT62izRLCItHX0Z4juf2Quzhr30XyIiPxc"
    "+ToxI8/33+6eKn80/vTo6+lTek4gMJv5zbqKenuiTkCcRT7PvPlNn9MfbHOjhnCJsBe96Q"
    "oJ184BuHu3d8XAFvMaoQcNWXRpxRF3wdpGOCFiLc/IK2Ap9TD5gOwos0tUCOOMJbwVhIXu"
    "cphyt/oGKpYpIPckK0BPFAUK1rIc9Z9RpALgH1w93dtbyy5/tfXNVw9bCE7q83Hy4/vTtQ"
    "oItBDodFkZhAHYEin626fpEmelnPaArtg63WMxJQuWNNgPdrYZtLayBehthiIN+8j3kOm3"
    "BGhfCm6TaH6/q15L/3eoeH73v7hyenx0fv3x+f7scYZ7vKwP5w9aPEO8VPshPgYp/3fQCi"
    "PQXLlLUmYdsk4sbmQFqIw8mCOSMbBtiaPGOhLGd6aI8Wjc12eT1vuQUTPFJwyveWDxyb1B"
    "FEOcb2nGuV2dpyTGVTG3OECcK25xBkO/YeuqCe53CxONAAhpQBcjgai9sB8b9Djz7HPPAf"
    "BY2NHi1x90dkCfUL4SEHJobmGevruEXD5v6vv159r2HvB4F4DUmzHpu0849hQNQ0InUn+c"
    "/RPzubV4aUenl4ojSdKfX5iKlOBdcL9r8u5zJCY0WhgRNHXFXbaYHE2KcVbac8hbMM4QI1"
    "0wCcBzDHTPBzHYATivYZ/we90woAi1GFCKu+NMQ2cOy4WYgf4GsBZ04o2gBxCaIPl789pE"
    "z/OZDvbs5/Uxh7s6jn+u72x/nwBeAvru8+LOEdajNZvO897LqF0jChapEGf9h7fxKLQPmj"
    "TOjd35xfX+fYpkIf1HIPRuPbsHTXzX0ZiNcU9mOeglzi4k5RtVDMHZ5UADpSkvOAll1Leo"
    "RtC0VaayNhgaSFEDezlrfEfL/ALHenXLV3y0x3S4zQMtzRfPcDeYCJjzhFg2C2h664jxh9"
    "Ro5oGgNyqTVBdChsZx+5DgG/yEpf6XormOSvsvHzFjaLi+3zJ2B+rjFTZqQvEBlLvbalHk"
    "ztWv71NJ2ZgF307UohcMXBKxIQqu9FIdF3xLCKkuJcsWjJrgV7F7QhN58yx4I5P7cEk3Dp"
    "KIBv/K5yuxLK0QSmOd7cla/WsOO2WD40qY9ukWQ4ONqv4hQ42i92Csi+cuGwHfL4tXnTms"
    "0tfxLo4BsNN9BWgPZLgAl3+CyLb6FwXSRpk2htLCpAWKA1dJZFqjbB+oY0ljlfz9NYFnh+"
    "icYSjaqosHwUIynBLpLiSagbT+AjoSkAEloFge8QCCtErCQxSUjcCdCYitdQmodjZxWWla"
    "9mFJbt4O7F2gpxrIluqPkijfENvyxRtfFtLba9/SoKuBhVHFi+v78ML3i5m3LF+MYELQT4"
    "uMrqFaNKIvcz63fgMD7uS/+JDsppqvZBfVDJliwxJTMLmeNRzr5G8ebyfPzmzJrO73901g"
    "TupveW5RkeLbRjgg3C3RawzcGJjR2cKNyb2K6NCRPPb6z3Vm747LcKfQGPXwP8FFmLorDe"
    "nufqoih3QXpAt4oPq6+TyOAn+ozE083isArlWJK+JwZnysfkB57aS3NdGV/h76EbMbyLfC"
    "p6MUeEDqg9Q89YRloMKUOUQNbFtb7brOD78oVRpZNXIR7fDJtrdW6FQlW0zBFfpIkaOVJR"
    "jjikDu6LVAb5nZMhl0+QLzvCjlKZAXJIRVFxR0B0WXwPPQh+rS4h4ylowAf0axeNHcHZmW"
    "DZDKauzHxDA2aBiq7wxNJhDnYV4xav4c64Y+VE+K3lDqsICPii9yVFBO2RDxvhX8VSRCGY"
    "mYGSozbR+BZGIBz2qoR494pDvHuZ4I5g8F+wtI4yLZC0EOKDar7mMmdz1tvsge8Lvp1Fuf"
    "g87wLJCod6t8y0W+UI72LUDARaHCEmaN/OSPM7qENGvb42xGkqg7NJIrUNGEudQmffaT6+"
    "FXJt0xtP5sTuZvEeYG7lpFMsViligiazhGwv6Boahdl5eruekx/wEw1YuMeb8Z4knd0yD8"
    "pwPqzyWZcpo3Zg8dCvvXCe8RmLeZDnGScAU5mOCGaAaE5u4XqXMEGi5lTLjvAhc6plV6E1"
    "0vTtStOfYZYnR2VzqQSdwKyq7CTIscGbUg7EmgkhJ8/9EyEAw62C6Lg/fSZnom1ImXwnRM"
    "CR8g6JxeYKah8RymSnEIM5WxDruYWRvasxqqNKAe1HJQHtR/svyt6heB5gU+boZahbIjNi"
    "ooKYeDWn+LYBXd+G3RKmfxNNSw7jv0lmrJj5R9Na3XgKmDXGPoSH+h17fqKfMhvYN7KlK3"
    "4zGozGKpZI+aXz+HzdK30mn8kjAwvEU0UJYJ8pmwB7RANwKRlJ80tloAFx8TPkA0eDmTTS"
    "XOx4XfEfYCbTys7Cc33Io0+gDLnPBIgt7su7CL5aMFV08kpCN5oCkwJH/WWjCDRl5amH9u"
    "I4KYxcsfoRltlvGCLi/89EvJjPHfEK2JKXFRcIiPitrk3gKw8fzeSs3ZZPu0xIqVWYm/6s"
    "5Nh4QtImzbqx4POi/IdS5l+SwFOwXolHwMSCrHlYlAdxq0R/5+Pl7fdXtz+eoangMgLdz+"
    "Tjp7uLy/v7sJFRSzAV1X5xd/Px+vLh8vszmdR66oJ49s/kh/Ora9k0xI4rf1+c315cXqsm"
    "S+LiqtbL3z5efZJt8HXqCDa3zHdf58TXjhzW2KFPxvipNqAlxxmUqm6qxQStgHfTm2qccu"
    "z2rXlAZHXn1RKhOYhRN3zZChiTbhc9rpLQtGLZL4X9VYn6Kw76y+bPHYKESyvAJ0XUhu36"
    "tTPuxIPYn4DWcs4hbR/iayl86AHHukE/izStYB6blplT5lCWm8WsPHn8Il2bFOwm8sePGA"
    "2mOjwjJmgfp1hDgRQulORpnopXUvcnIWnTYm3MGnSpz/vK36kD6xKVQTYvo+ETdtS76mc1"
    "XKJsE7ybPp1PuNB/axzPT9GZCag/AcqZ6OtPQIrO2OW17XLl4O1HZVTqhPfkX8DMSN0ZUW"
    "KzD1OaFwZeLHHTVG3iSI1J3GhrV88/EpO0TwNv/txpuF2uA3BC0T58DyqFNh2UhDYdZHN1"
    "Rh96TbGZR21YdW1WLetdA2M0Z8kXe6bSVG1Y9pt2TYm1K59fA/OEwuBdC29gT5ATmVKKeE"
    "xjMNfHXMVx9VX4Vh7wpXk/M7QbTP8Zt+xs/k9z0MEkrHzbEzB0iOOPa8zAEqHRLHfwrM/H"
    "8ABqJyfse97VLQv7jg6w6lQSdcK8jz52xQjx+3nsWOOorJsMw5ZpSEQjkDCg2+eyAqggwq"
    "osaHJwp6CwaKOXXyXn2CseTtyiEz8bKMmyyXIhWycy1l8vRH06dcLplgiNiDbxdFsbT4e5"
    "uPkg4Hkb38Vmb5qqFShv2vLFjDu+lpc+oWiDp2EDDFwAwrQkZExgAK4EMIPQ0z4DnOMbLp"
    "SPy2QtMqAa28XbhbJDbeLGcbCRNJP01L0sbYsW9IYVPsmzpsD66gyzBkvJ0LVoCpqLxTPV"
    "tUx1rRTOprrWzklGs1nxZiZgS1zlv6jM2DmO8l/mKbOL3eRhzpFqTvJzJK9vh3lKlMtaeq"
    "R94FxMh7+HVAUpX5UXRw5Bj+r2qvExLz3KahdrOI9IcemailktIom4vc7vNZdjMs7udaYa"
    "X3isDMZlKbBTZKberbbZGfpBfBCPkWftvxDguEC3Ocl6uOayV43pjPKbqXFWbplsg8r4Li"
    "Fb78RcDuXm8D3eEXil1kaHwxpsIYfS2JLZ8xEciHyIvo1nOuhmCQ3XzaA7xUGdQsApshb5"
    "7jZsphu3U6OLWZ1hUAHG+kdQlknNoq4dBGKcf8b596YnwAaVw1J7AtJ0hgPtqvNV+SU7RR"
    "7YsLf7ohtWLIygcq3kuN79PL+1qm0fuVNlIllbxhIzkIlSxYVkSWNsS0/q3buDb7uyuL0K"
    "K44osv7ZNVx/BZftViQlbrX/Nkraq2kVJESmrHs90ZHkRdaEPkVn0K+pus7TT2tqrotkBv"
    "uax7tUnm894BMag/oqmXa0gU+RGexXyTKlifwCkcF958yDT/BELRzBlDEPFnpLzQMWj6sc"
    "qmGJNSO94dgNy7YITU3WhIEhZaBCLbjjgSoxhj3HnXVlATLHmoDQ5CkTP6S7V+j0Qwb+GH"
    "E6gdwyoWu6i6lmtmLKn16llD+9kpQ/vZcriRq33zaIk1dJWvh2J2BL5Mq9PB2eJ1LCjlJp"
    "4sdDqnuZlPPn/udfZUkvwdoxgz10rhqeHbF+Ah4dU3dkaUqOlCcL7DPkU9eOhwjpUOJoav"
    "QW5nz8tkSxFQsQAdcYE011eIHIcK7aoqM4lVYZ9iXJtAz41cF36bP+dnVMY3aJGg++KAO+"
    "pXXaNn1skGozm5jEwG4iM3Z1Akxkxhs30W4EF/MgPzggPaD7osnW96KxFZ2AdwSQ64h/hG"
    "UV1ou2R8Dkr8dIi348Q+KeymnXRURWi0aWaB8lP6csIJBjtTV8bVMVurHvrOSTWaEq9Gsa"
    "xa/NuNZ8uIsE3iAvl0KZfEhojGyoLZwnTp7zoXhRz8e3cFU3XxE75PWaamdMY1Z17VVtvG"
    "rGq/YWwTdeNeNVe2PQM8C+XkaAhKINGRQ3nQ3A1DbPao7N20PRgQMdq36BZAXTfstwXsWQ"
    "T+WUy6sLVZLFdk5g1urLa9U42N+yf1dMotfJdeyqnm65RzceU8mRy+jzmfK0juU5q8jrCk"
    "9AOHLpKCwZIaNjXFk1YuQ8gY9CJ5EvD2VZ1PMcjlT2zXxnbsPXb9ihe+9h1105R9f2R+CE"
    "39Bh7/1J/NXIH2Xfyf3N+fX1y+e75LTq8ag5heFOtRV07ZLqRhysGBKbX6+4WNspKlXcCq"
    "fuSRWn7kmxU/dkWd0ZujRPmSw9sTUnMau69qr2nyGvXnQZ7DGJgb027GFu1H4tB1eW1kzE"
    "Cn6u+PhTvdkouICZktpTMqZ66V7n49soZnunlQ5bnZYctjr9dnvs2nNgjjXu5Ni1UU+3zK"
    "7FyZiX7NpivE1y5+1KDlLIdIs/+GI224Zvvnd8XOGbF6OKqzXJviVrUXxUGghHw1uI7kGl"
    "WlgHJbWwDrK1sMQdeRRnmUb4X/d3twVe2oRkCWXbsTj6H3Kjem87hnYJuBKM8n2z5S2ybn"
    "oLQl7gw2sLs7/+D9z/fbc="
)
