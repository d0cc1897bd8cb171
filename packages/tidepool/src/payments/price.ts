/**
 * Prices as people read them.
 */
import type { Product } from '../config.ts'

/** `$5.00 a month` */
export function priceOf({ price, currency = 'usd', recurring }: Product): string {
  const amount = new Intl.NumberFormat('en', { style: 'currency', currency }).format(price / 100)
  return recurring ? `${amount} a ${recurring}` : amount
}
