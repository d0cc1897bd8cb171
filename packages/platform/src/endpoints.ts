// Every endpoint of the control plane, by the name of its operation.
import { agentEndpoints } from './agents.ts'
import { deployEndpoints } from './deploys.ts'
import type { Endpoint } from './endpoint.ts'
import { environmentEndpoints } from './environments.ts'
import { keyEndpoints } from './keys.ts'
import { metricEndpoints } from './metrics.ts'
import { operatorEndpoints } from './operator.ts'
import { dataEndpoints } from './pod-data.ts'
import { podEndpoints } from './pods.ts'
import { rollbackEndpoints } from './rollback.ts'
import { secretEndpoints } from './secrets.ts'

/** By noun, in the order in which one needs them. */
export const endpointGroups = {
  Agents: agentEndpoints,
  Keys: keyEndpoints,
  Pods: podEndpoints,
  Deployments: deployEndpoints,
  'Rollback and undo': rollbackEndpoints,
  Secrets: secretEndpoints,
  'Data and logs': dataEndpoints,
  Metrics: metricEndpoints,
  Environments: environmentEndpoints,
  Operator: operatorEndpoints,
} satisfies Record<string, Record<string, Endpoint>>

export const endpoints: Record<string, Endpoint> = Object.assign({}, ...Object.values(endpointGroups))
