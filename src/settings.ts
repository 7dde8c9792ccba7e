// What can be set of an agent, as the configuration file says it.
import type { Selector } from './identity/selector.ts'
import type { LeaseLimits } from './leases/lease.ts'
import type { AddressRange } from './net/prefix.ts'
import type { ParseOptions } from './policy/rules.ts'
import type { AnswerOptions } from './proxy/answers.ts'
import type { BudgetLimits } from './proxy/budgets.ts'
import type { Server } from './proxy/upstream.ts'

/** How policies are read and what becomes of what they deny; see CompileOptions and ParseOptions. */
export interface PolicySettings extends ParseOptions {
  readonly enforcement: 'default' | 'always' | 'never'
  readonly allowLocalhost: boolean
  readonly audit: boolean
  readonly auditEndpoints?: readonly Selector[]
  readonly hostPolicies: boolean
  /** How long connections go on that a changed policy, or a lease that was taken away, does not allow any more. */
  readonly drainSeconds: number
  /** The Node that this machine is. */
  readonly localNode: string | undefined
}

/** What can be set, as in the configuration file. */
export interface AgentSettings {
  readonly dns: {
    readonly timeoutMillis: number
    readonly hedgeMillis: number
    readonly routes: readonly { readonly suffixes: readonly string[]; readonly upstreams: readonly Server[] }[]
    readonly deadlineMillis: number
    readonly mixCase: 'off' | 'prefer' | 'require'
    /** As `readDenyReplies` reads it. */
    readonly denyReply: string
    readonly clusterDomain: string
    readonly searchSuffixes: readonly string[]
    readonly privateAnswers: 'refuse' | 'strip' | 'allow'
    readonly privateSuffixes: readonly string[]
    readonly serviceHints: 'lease' | 'strip'
    readonly stripEch: boolean
    readonly refuseDoh: boolean
    readonly budgets: BudgetLimits
    readonly unknownEndpoint: 'deny' | 'allow'
    readonly cache: AnswerOptions
  }
  readonly leases: LeaseLimits
  readonly policy: PolicySettings
  readonly datapath: {
    readonly table: string
    readonly denied: 'drop' | 'reject'
    readonly interfaces: readonly string[]
    readonly prefixes: readonly AddressRange[]
    readonly learnedMax: number
  }
}
