// Auth0 Action (Machine to Machine) that asks Trustwatch by AuthZEN, and fails closed.
exports.onExecuteCredentialsExchange = async (event, api) => {
  const body = { subject: { type: "client", id: event.client.client_id },
                 resource: { type: "audience", id: event.resource_server.identifier },
                 action: { name: "issue:access_token:client_credentials" } };
  try {
    const answer = await fetch("https://trust.example/access/v1/evaluation", {
      method: "POST", body: JSON.stringify(body), signal: AbortSignal.timeout(1000),
      headers: { "content-type": "application/json", authorization: `Bearer ${event.secrets.TRUST_TOKEN}` } });
    const { decision, context } = await answer.json();
    if (!answer.ok || !decision) return api.access.deny("invalid_request", "access denied");
    const claims = context?.issuance?.claims ?? {};
    for (const [name, value] of Object.entries(claims)) api.accessToken.setCustomClaim(name, value);
  } catch { api.access.deny("server_error", "trust can not be established"); }
};
