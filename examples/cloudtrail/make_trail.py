"""Write a made-up trail of AWS CloudTrail: sixteen days of twelve roles. On the last day somebody uses keys of one.

    python examples/cloudtrail/make_trail.py var/trail

Nothing of it happened: the account, the addresses and the names are those that manuals use. The files lie and look as
CloudTrail writes them: one for an hour of an account and a region, JSON with `Records`, compressed.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS, HOURS = 16, (7, 19)
RUNS = (8, 14)
"""How often a role is used in a day: from, to."""
CALLS = (6, 12)
"""Calls of one use: from, to."""
ACCOUNT, REGION = "111122223333", "eu-central-1"
SDK = "Boto3/1.40.4 md/Botocore#1.40.4 ua/2.1 os/linux lang/python#3.12"
STOLEN_FROM, STOLEN_AT = "invoices-2", START + timedelta(days=DAYS - 1, hours=14, minutes=10)


class Call(NamedTuple):
    """One kind of call of a role."""

    service: str
    name: str
    parameters: dict[str, str]
    reads: bool = True


JOBS = {
    "invoices": [
        Call("s3", "GetObject", {"bucketName": "example-invoices"}),
        Call("dynamodb", "GetItem", {"tableName": "orders"}),
        Call("dynamodb", "PutItem", {"tableName": "payments"}, reads=False),
    ],
    "reports": [
        Call("s3", "ListObjects", {"bucketName": "example-reports"}),
        Call("athena", "StartQueryExecution", {"name": "daily"}, reads=False),
        Call("s3", "PutObject", {"bucketName": "example-reports"}, reads=False),
    ],
    "support": [
        Call("dynamodb", "Query", {"tableName": "tickets"}),
        Call("dynamodb", "UpdateItem", {"tableName": "tickets"}, reads=False),
        Call("sqs", "SendMessage", {"queueUrl": "https://sqs.example/mail"}, reads=False),
    ],
}
COPIES = 4
"""Roles of each job: `invoices-0` to `invoices-3`."""
THEFT = [
    Call("sts", "GetCallerIdentity", {}),
    Call("s3", "ListBuckets", {}),
    Call("iam", "ListUsers", {}),
    Call("secretsmanager", "ListSecrets", {}),
    *(Call("secretsmanager", "GetSecretValue", {"secretId": f"prod/{name}"}) for name in ("db", "mail", "pay", "vpn")),
    *(Call("s3", "GetObject", {"bucketName": name}) for name in ("example-reports", "example-backups", "example-hr")),
    Call("iam", "CreateAccessKey", {"userName": "ci-runner"}, reads=False),
]
"""What a thief does with the keys of a role: looks around, takes what there is, and makes a key to come back with."""


def record(at: datetime, role: str, run: str, call: Call, address: str, software: str, number: int) -> dict[str, Any]:
    """A record as CloudTrail writes it; *run* names the session of the role."""
    issuer = {"type": "Role", "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}", "accountId": ACCOUNT, "userName": role}
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": f"AROA{role.upper()}:{role}",
            "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{role}",
            "accountId": ACCOUNT,
            "accessKeyId": f"ASIA{run.upper()}",
            "sessionContext": {"sessionIssuer": issuer, "attributes": {"mfaAuthenticated": "false"}},
        },
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": f"{call.service}.amazonaws.com",
        "eventName": call.name,
        "awsRegion": REGION,
        "sourceIPAddress": address,
        "userAgent": software,
        "requestParameters": call.parameters,
        "responseElements": None,
        "eventID": f"00000000-0000-4000-8000-{number:012d}",
        "readOnly": call.reads,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
    }


def ordinary_day(day: int, draw: random.Random) -> list[tuple[datetime, str, str, Call]]:
    """What each role does on a day: when, which role, which session of it, which call."""
    made = []
    for job, calls in JOBS.items():
        for role in (f"{job}-{copy}" for copy in range(COPIES)):
            for run in range(draw.randint(*RUNS)):
                at = START + timedelta(days=day, hours=draw.uniform(*HOURS))
                for _ in range(draw.randint(*CALLS)):
                    made.append((at, role, f"{role}-{day}-{run}", draw.choices(calls, (5, 3, 2))[0]))
                    at += timedelta(seconds=draw.uniform(1, 20))
    return made


def trail(seed: int = 7) -> list[dict[str, Any]]:
    """All records, in the order of time."""
    draw = random.Random(seed)
    calls = [
        (at, role, run, call, f"10.0.{COPIES}.{10 + int(role[-1])}", SDK)
        for day in range(DAYS)
        for at, role, run, call in ordinary_day(day, draw)
    ]
    theft = (STOLEN_AT + timedelta(seconds=25 * step) for step in range(len(THEFT)))
    software = "aws-cli/2.27.0 md/prompt#off"
    calls += [
        (at, STOLEN_FROM, "stolen", call, "198.51.100.77", software) for at, call in zip(theft, THEFT, strict=True)
    ]
    return [record(*call, number) for number, call in enumerate(sorted(calls, key=lambda call: call[0]))]


def write_trail(folder: Path) -> int:
    """Write the files of the trail below *folder*; returns the number of records."""
    hours: dict[str, list[dict[str, Any]]] = defaultdict(list)
    records = trail()
    for one in records:
        hours[one["eventTime"][:13]].append(one)
    for hour, those in hours.items():
        day = hour[:10].replace("-", "/")
        name = f"{ACCOUNT}_CloudTrail_{REGION}_{hour.replace('-', '')}00Z_example.json.gz"
        path = folder / "AWSLogs" / ACCOUNT / "CloudTrail" / REGION / day / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps({"Records": those}).encode(), mtime=0))
    return len(records)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_trail.py FOLDER")
    print(f"{write_trail(Path(sys.argv[1]))} records in {sys.argv[1]}")
