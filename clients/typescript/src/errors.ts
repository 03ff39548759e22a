import type { Balance, Denial, Settlement } from "./types.js";

/** gRPC's names, and DENIED for an answer that credits or limits refused. */
export type Code =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED"
  | "DENIED";

/** In the order of gRPC's numbers, from 1. */
export const CODES = (
  "CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED " +
  "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split(" ") as Code[];

/** Any failure of a call; `code` says which. */
export class MeterError extends Error {
  override readonly name: string = "MeterError";
  /** What an overloaded server asks to wait before the next try. */
  retryAfterMs: number | undefined;

  constructor(
    readonly code: Code,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** meterd decided not to grant it: nothing was set aside or charged. `denial` names every scope that failed and what is affordable. */
export class DeniedError extends MeterError {
  override readonly name = "DeniedError";

  constructor(
    readonly denial: Denial,
    readonly balance?: Balance,
  ) {
    const reasons = denial.reasons.map((one) => `${one.code} (${one.scope})`).join(", ");
    super("DENIED", `${reasons}: ${denial.requiredMicros} micro-credits required, ${denial.availableMicros} available`);
  }
}

/** Nobody knows yet: meterd, a store or the network is away. The call may have had its effect; a repeat with the same id is safe. */
export class UndecidedError extends MeterError {
  override readonly name = "UndecidedError";
}

/** The call was refused as it is, and nothing was written. The same call again fails again. */
export class RefusedError extends MeterError {
  override readonly name: string = "RefusedError";
}

/** A field is malformed or out of range; the message names it. */
export class InvalidArgumentError extends RefusedError {
  override readonly name = "InvalidArgumentError";
}

/** No key, one that is unknown, expired or revoked, or one whose role does not cover the call. */
export class AuthenticationError extends RefusedError {
  override readonly name = "AuthenticationError";
}

/** No such account, wallet, hold, model, feature or rate for this tenant. */
export class NotFoundError extends RefusedError {
  override readonly name = "NotFoundError";
}

/** The id was used before with other content. */
export class ConflictError extends RefusedError {
  override readonly name = "ConflictError";
}

/** The hold has ended another way. */
export class HoldEndedError extends RefusedError {
  override readonly name = "HoldEndedError";
}

/** The call ended, and nobody said what it used: it was charged by what was last reported, or else by the whole hold (`settlement`). */
export class MissingUsageError extends MeterError {
  override readonly name = "MissingUsageError";

  constructor(readonly settlement: Settlement | undefined) {
    super("FAILED_PRECONDITION", "the call ended without a usage");
  }
}

const REFUSALS: { [code in Code]?: typeof RefusedError } = {
  INVALID_ARGUMENT: InvalidArgumentError,
  OUT_OF_RANGE: InvalidArgumentError,
  UNAUTHENTICATED: AuthenticationError,
  PERMISSION_DENIED: AuthenticationError,
  NOT_FOUND: NotFoundError,
  ALREADY_EXISTS: ConflictError,
  FAILED_PRECONDITION: HoldEndedError,
  UNIMPLEMENTED: RefusedError,
};

/** The error of a gRPC code: a refusal, or undecided for all that may be otherwise next time. */
export function failure(code: Code, message: string, cause?: unknown, retryAfter?: string | null): MeterError {
  const error = new (REFUSALS[code] ?? UndecidedError)(code, message, { cause });
  const ms = parseInt(retryAfter ?? "");
  // A negative number says never.
  if (ms >= 0) error.retryAfterMs = ms;
  return error;
}
