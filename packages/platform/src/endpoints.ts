// Every endpoint of the control plane, by the name of its operation.
import { agentEndpoints } from './agents.ts'
import { deployEndpoints } from './deploys.ts'
import type { Endpoint } from './endpoint.ts'
import { environmentEndpoints } from './environments.ts'
import { keyEndpoints } from './keys.ts'
import { metricEndpoints } from './metrics.ts'
import { dataEndpoints } from './pod-data.ts'
import { podEndpoints } from './pods.ts'
import { rollbackEndpoints } from './rollback.ts'
import { secretEndpoints } from './secrets.ts'

export const endpoints: Record<string, Endpoint> = {
  ...agentEndpoints,
  ...keyEndpoints,
  ...podEndpoints,
  ...deployEndpoints,
  ...rollbackEndpoints,
  ...secretEndpoints,
  ...dataEndpoints,
  ...metricEndpoints,
  ...environmentEndpoints,
}
