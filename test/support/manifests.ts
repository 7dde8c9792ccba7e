// Manifests for tests, built short: pods that have one label `app`, policies that select by it.

export const pod = (name: string, addresses: readonly string[], labels: string = `{app: ${name}}`): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, labels: ${labels}}
status: {podIPs: [${addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`
export const policy = (app: string, ...egress: readonly string[]): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${app}}
spec:
  endpointSelector: {matchLabels: {app: ${app}}}
  egress: [${egress.join(', ')}]
`
export const ports = (first: number, last: number = first): string =>
  `toPorts: [{ports: [{port: "${first}", endPort: ${last}, protocol: TCP}]}]`
/** One rule that opens ports of names; 443 unless said otherwise. */
export const names = (rules: string, open: string = ports(443)): string => `{toFQDNs: [${rules}], ${open}}`
