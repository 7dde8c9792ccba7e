// Time as values: moments in milliseconds of a monotonic clock that is passed in. `Date` serves display only.

/** A moment or a duration in milliseconds. */
export type Millis = number & { readonly unit?: 'ms' }
/** A duration in whole seconds, as TTLs travel on the wire (RFC 1035 §3.2.1). */
export type Seconds = number & { readonly unit?: 's' }

/** Milliseconds of a monotonic clock; the zero point is arbitrary. */
export type Clock = () => Millis

/** The process's monotonic clock. */
export const monotonic: Clock = () => performance.now()

/** The wall-clock moment of a monotonic one, for display (JSON, logs); never for deciding. */
export function wallTime(clock: Clock, moment: Millis): Date {
  return new Date(Date.now() + (moment - clock()))
}
