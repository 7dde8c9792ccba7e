// Identities that are not of workloads, with Cilium's numbers: this host, other nodes, API servers, the world.
import type { Family } from '../net/address.ts'
import type { Identity, IdentityId } from './endpoints.ts'
import type { Labels } from './labels.ts'

export const hostLabel = 'reserved:host'
export const remoteNodeLabel = 'reserved:remote-node'
export const apiServerLabel = 'reserved:kube-apiserver'

const labelsOf = (...keys: readonly string[]): Labels => new Map([...keys].sort().map((key) => [key, '']))

/** Nobody knows who this is: an address that two endpoints claim. */
export const unknownId: IdentityId = 0
export const hostId: IdentityId = 1
/** World's addresses have an identity by family. */
export const worldId: Readonly<Record<Family, IdentityId>> = { 4: 9, 6: 10 }

/** A node without labels of its own; those whose labels are known have numbers like workloads. */
export const remoteNode: Identity = { id: 6, labels: labelsOf(remoteNodeLabel) }
const apiServerNode: Identity = { id: 7, labels: labelsOf(remoteNodeLabel, apiServerLabel) }

/** A policy about `reserved:world` means both families. */
export const world: Readonly<Record<Family, Identity>> = {
  4: { id: worldId[4], labels: labelsOf('reserved:world', 'reserved:world-ipv4') },
  6: { id: worldId[6], labels: labelsOf('reserved:world', 'reserved:world-ipv6') },
}

const host: Identity = { id: hostId, labels: labelsOf(hostLabel) }
const apiServerHost: Identity = { id: hostId, labels: labelsOf(hostLabel, apiServerLabel) }

/** This host; `isApiServer`: one of its addresses is an API server's. */
export function hostIdentity(isApiServer: boolean): Identity {
  return isApiServer ? apiServerHost : host
}

/** An API server outside the cluster. */
export const apiServerLabels: Labels = labelsOf(apiServerLabel)

/** The labels of another node. */
export function nodeLabels(labels: ReadonlyMap<string, string>, isApiServer: boolean): Labels {
  const reserved = isApiServer ? apiServerNode.labels : remoteNode.labels
  return new Map([...[...labels].map(([key, value]): [string, string] => [`node:${key}`, value]), ...reserved].sort(([a], [b]) => (a < b ? -1 : 1))) // prettier-ignore
}

/** The reserved identity of a node's label set, if it has one: the same object whenever it is asked for, by which it is seen to be unchanged. */
export function reservedNode(labels: Labels): Identity | undefined {
  if (labels.size === remoteNode.labels.size) return remoteNode
  return labels.size === 2 && labels.has(apiServerLabel) ? apiServerNode : undefined
}
