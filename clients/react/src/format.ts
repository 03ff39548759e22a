/** Amounts as a reader sees them. They are counted in bigint and written as decimals, so that none passes through a float. */

const MICROS_DIGITS = 6;

export interface CreditsFormat {
  locale?: string | undefined;
  /** At most so many decimals; smaller amounts than they can show get as many as they need. Default: 2. */
  decimalsMax?: number | undefined;
  /** A balance is rounded down and a cost up: neither promises more than there is. Default: "down". */
  round?: "down" | "up";
  /** With "+" too. */
  signed?: boolean;
}

/** Credits of an amount in micro-credits, such as "1,234.5". */
export function formatCredits(micros: bigint, { locale, decimalsMax = 2, round = "down", signed = false }: CreditsFormat = {}): string {
  const digits = Math.min(Math.max(decimalsMax, 0), MICROS_DIGITS);
  const size = micros < 0n ? -micros : micros;
  const isTiny = size > 0n && size < 10n ** BigInt(MICROS_DIGITS - digits);
  const decimal = isTiny ? decimalOf(micros) : decimalOf(rounded(micros, digits, round));
  const format = new Intl.NumberFormat(locale, {
    maximumFractionDigits: isTiny ? MICROS_DIGITS : digits,
    minimumFractionDigits: 0,
    signDisplay: signed ? "exceptZero" : "auto",
  });
  // Typed for the newest engines, which take decimals as they are; older ones make numbers of them.
  return format.format(decimal as `${number}`);
}

/** A price of the catalog, such as "19.00" of "eur", as "€19.00"; without decimals if it has none. */
export function formatPrice(price: string, currency: string, locale?: string): string {
  if (!currency) return price;
  const isWhole = /^\d+(\.0*)?$/.test(price);
  const options: Intl.NumberFormatOptions = { style: "currency", currency: currency.toUpperCase() };
  if (isWhole) options.minimumFractionDigits = options.maximumFractionDigits = 0;
  try {
    return new Intl.NumberFormat(locale, options).format(price as `${number}`);
  } catch {
    // A currency that Intl has no form for.
    return `${price} ${currency.toUpperCase()}`;
  }
}

export function formatTime(time: Date, locale?: string): string {
  const isThisYear = time.getFullYear() === new Date().getFullYear();
  const options: Intl.DateTimeFormatOptions = { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" };
  return new Intl.DateTimeFormat(locale, isThisYear ? options : { ...options, year: "numeric" }).format(time);
}

function rounded(micros: bigint, digits: number, round: "down" | "up"): bigint {
  const unit = 10n ** BigInt(MICROS_DIGITS - digits);
  const rest = ((micros % unit) + unit) % unit;
  if (rest === 0n) return micros;
  return round === "down" ? micros - rest : micros - rest + unit;
}

function decimalOf(micros: bigint): string {
  const size = (micros < 0n ? -micros : micros).toString().padStart(MICROS_DIGITS + 1, "0");
  const whole = size.slice(0, -MICROS_DIGITS);
  const fraction = size.slice(-MICROS_DIGITS).replace(/0+$/, "");
  return `${micros < 0n ? "-" : ""}${whole}${fraction && "."}${fraction}`;
}
