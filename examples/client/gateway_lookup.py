"""A gateway's look-up: agent ids from standard input, a ruling for each on standard output.

    echo agent-orchestrator-0 | python examples/client/gateway_lookup.py

Its fail mode is `last_known`: what the service said in the last five minutes, else closed.
"""

from __future__ import annotations

import json
import sys

from common import BUDGET_S, TENANT, URL, service_token

from trustwatch_client import RiskSettings, TrustClient, TrustUnavailable, judge

SETTINGS = RiskSettings(fail_mode="last_known", last_known_s=300, without_last_known="closed", budget_s=BUDGET_S)


def main() -> None:
    with TrustClient(URL, service_token, SETTINGS) as client:
        client.check()  # a wrong token or URL shows here, whatever the fail mode
        for line in sys.stdin:
            agent = line.strip()
            try:
                answer = client.risk(agent, tenant=TENANT)
            except TrustUnavailable as error:
                said = {"agent": agent, "action": "deny", "why": error.cause}
            else:
                said = {"agent": agent, "action": judge(answer, "write").action, "level": answer.risk_level}
                said |= {"source": answer.source, "lifetime_s": answer.token_policy.max_token_lifetime_s}
            print(json.dumps(said), flush=True)
        print(json.dumps(client.counts()), file=sys.stderr)


if __name__ == "__main__":
    main()
