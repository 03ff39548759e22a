/** A new UUIDv7 (RFC 9562): millisecond time and 74 random bits. The identity of a hold or a charge for ever. */
export function uuid7(nowMs: number = Date.now()): string {
  const time = nowMs.toString(16).padStart(12, "0");
  // All that follows the version of a random UUID: 12 random bits, the variant, 62 random bits.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
}
