// The vocabulary every noun's schema is made of. Optional request fields also accept null, because existing
// clients send null for what they leave out.
import { z } from 'zod'

/** Any JSON value of the user's. Never looked into. */
export const Json = z.unknown()

/** ISO 8601 UTC with milliseconds. */
export const Timestamp = z.string().meta({ format: 'date-time' })

/** A user's JSON object. */
export const JsonObject = z.record(z.string(), z.unknown())

/** A name that people choose: workflow, step, gate, queue, stream. At most 300 characters. */
export const Name = z.string().min(1).max(300)

/** Free text such as a reason, a label or an actor. At most 2,000 characters. */
export const Text = z.string().max(2_000)

/** The text of an error. Longer than other texts, because stacks are. */
export const ErrorText = z.string().max(100_000)

/** An identity chosen by a worker for its lease. */
export const LeaseOwner = z.string().min(1).max(300)

/** An http or https address. */
export const WebUrl = z.url({ protocol: /^https?$/ }).max(4_000)

/** A point in time given by a client. ISO 8601 also has a year 0 and offsets of most of a day; databases have not. */
export const TimestampInput = z.iso
  .datetime({ offset: true, local: false })
  .refine((time) => !/^0000|[+-](1[6-9]|2\d):?\d\d$/.test(time), 'must be after the year 0, with an offset below 16:00')

/** Milliseconds, at most ten years. */
export const Milliseconds = z.int().min(0).max(315_576_000_000)

/** An id: its noun's prefix and 32 lowercase hex digits. */
export function Id(prefix: string) {
  return z.string().regex(new RegExp(`^${prefix}_[0-9a-f]{32}$`), `must be ${prefix}_ and 32 lowercase hex digits`)
}

/** A query parameter that is a whole number within bounds. */
export function IntParam(minimum: number, maximum: number) {
  return z.coerce.number().int().min(minimum).max(maximum)
}
