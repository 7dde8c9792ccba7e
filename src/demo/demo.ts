export interface DemoOptions {
  readonly once: boolean
  readonly verdictsOnly: boolean
}
export async function demoCommand(_: DemoOptions): Promise<number> {
  return 0
}
