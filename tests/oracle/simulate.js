// Reads {"policy": …, "requests": [{"action", "resource", "context"}, …]}, one a line, and answers each line with
// the decisions: "allow", "explicit deny", "implicit deny", or {"error": …}.
import { createInterface } from 'node:readline'

import { runSimulation } from '@cloud-copilot/iam-simulate'

const ACCOUNT = '123456789012'
const DECISIONS = {
  Allowed: 'allow',
  ExplicitlyDenied: 'explicit deny',
  ImplicitlyDenied: 'implicit deny'
}

async function decide(policy, { action, resource, context }) {
  const simulated = await runSimulation(
    {
      request: {
        principal: `arn:aws:iam::${ACCOUNT}:role/caller`,
        action,
        resource: { resource, accountId: ACCOUNT },
        contextVariables: context
      },
      identityPolicies: [{ name: 'policy', policy }],
      serviceControlPolicies: [],
      resourceControlPolicies: []
    },
    { simulationMode: 'Strict' }
  )
  if (simulated.resultType !== 'single') return { error: simulated.errors ?? simulated.resultType }
  if (simulated.result.ignoredContextKeys?.length) return { error: simulated.result.ignoredContextKeys }
  return DECISIONS[simulated.overallResult] ?? { error: simulated.overallResult }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { policy, requests } = JSON.parse(line)
  const decisions = []
  for (const request of requests) {
    decisions.push(await decide(policy, request).catch((error) => ({ error: String(error) })))
  }
  process.stdout.write(`${JSON.stringify(decisions)}\n`)
}
