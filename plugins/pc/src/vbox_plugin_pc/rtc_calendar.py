"""The clock bytes of an MC146818A: encodings, counting on, and matching the alarm.

MC146818A data sheet (Motorola, 1984/1988): table 3 "Time, Calendar and Alarm Data Modes".  The century
byte is a PC's convention; with it the leap years are the Gregorian ones.

Bytes are what the guest wrote: nonsense stays until its digit counts, and is then taken modulo its range.
"""

from __future__ import annotations

import itertools

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR = range(6, 10)
CENTURY = 0x32

DAY_SECONDS = 86_400
_DAYS_OF_400_YEARS = 146_097


def days_of(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a Gregorian date; `day` may lie outside its month."""
    # The year begins in March, so that the leap day is its last.
    shifted = year - (month < 3)
    months = (month + 9) % 12
    era, of_era = divmod(shifted, 400)
    in_era = of_era * 365 + of_era // 4 - of_era // 100 + (153 * months + 2) // 5 + day - 1
    return era * _DAYS_OF_400_YEARS + in_era - 719_468


def date_of(days: int) -> tuple[int, int, int]:
    """Year, month (1..12) and day (1..31) of a number of days since 1970-01-01."""
    era, in_era = divmod(days + 719_468, _DAYS_OF_400_YEARS)
    of_era = (in_era - in_era // 1_460 + in_era // 36_524 - in_era // 146_096) // 365
    in_year = in_era - (365 * of_era + of_era // 4 - of_era // 100)
    months = (5 * in_year + 2) // 153
    day = in_year - (153 * months + 2) // 5 + 1
    month = months + 3 if months < 10 else months - 9
    return era * 400 + of_era + (month < 3), month, day


class Format:
    """How the bytes are encoded: binary or BCD, 24 or 12 hours (register B)."""

    __slots__ = ("binary", "hours24")

    def __init__(self, binary: bool, hours24: bool) -> None:
        self.binary = binary
        self.hours24 = hours24

    def encode(self, value: int) -> int:
        """0..99 as a byte."""
        return value if self.binary else value // 10 << 4 | value % 10

    def decode(self, byte: int) -> int:
        """A byte as a number; a BCD digit above 9 counts as its value."""
        return byte if self.binary else (byte >> 4) * 10 + (byte & 15)

    def encode_hour(self, hour: int) -> int:
        """0..23 as a byte; bit 7 is PM of 12 hours."""
        if self.hours24:
            return self.encode(hour)
        return self.encode((hour + 11) % 12 + 1) | (0x80 if hour >= 12 else 0)

    def decode_hour(self, byte: int) -> int:
        """A byte as an hour, 0..23 when it makes sense."""
        if self.hours24:
            return self.decode(byte)
        return self.decode(byte & 0x7F) % 12 + (12 if byte & 0x80 else 0)

    def put_time(self, cmos: bytearray, seconds: int) -> None:
        """Set all clock bytes to `seconds` since 1970-01-01 00:00 in the RTC's own zone."""
        days, time = divmod(seconds, DAY_SECONDS)
        year, month, day = date_of(days)
        cmos[SECONDS] = self.encode(time % 60)
        cmos[MINUTES] = self.encode(time // 60 % 60)
        cmos[HOURS] = self.encode_hour(time // 3_600)
        cmos[WEEKDAY] = (days + 4) % 7 + 1  # 1970-01-01 was a Thursday; 1 is Sunday
        cmos[DAY] = self.encode(day)
        cmos[MONTH] = self.encode(month)
        cmos[YEAR] = self.encode(year % 100)
        cmos[CENTURY] = self.encode(year // 100 % 100)

    def time_of_day(self, cmos: bytearray) -> int:
        """Seconds since midnight, 0..86399 whatever the bytes are."""
        hour = self.decode_hour(cmos[HOURS]) % 24
        return hour * 3_600 + self.decode(cmos[MINUTES]) % 60 * 60 + self.decode(cmos[SECONDS]) % 60

    def advance(self, cmos: bytearray, seconds: int) -> None:
        """Count on by `seconds` (negative: back); only digits that change are written."""
        old = self.time_of_day(cmos)
        days, new = divmod(old + seconds, DAY_SECONDS)
        cmos[SECONDS] = self.encode(new % 60)
        if days or new // 60 != old // 60:
            cmos[MINUTES] = self.encode(new // 60 % 60)
            if days or new // 3_600 != old // 3_600:
                cmos[HOURS] = self.encode_hour(new // 3_600)
        if days:
            self.advance_date(cmos, days)

    def advance_date(self, cmos: bytearray, days: int) -> None:
        cmos[WEEKDAY] = (cmos[WEEKDAY] - 1 + days) % 7 + 1
        year = self.decode(cmos[CENTURY]) % 100 * 100 + self.decode(cmos[YEAR]) % 100
        month = (self.decode(cmos[MONTH]) - 1) % 12 + 1
        day = max(self.decode(cmos[DAY]), 1)
        # A day behind the end of its month counts as the last: the chip goes on to the first.
        first = days_of(year, month, 1)
        last = days_of(year + month // 12, month % 12 + 1, 1) - 1
        year, month, day = date_of(min(first + day - 1, last) + days)
        cmos[DAY] = self.encode(day)
        cmos[MONTH] = self.encode(month)
        cmos[YEAR] = self.encode(year % 100)
        cmos[CENTURY] = self.encode(year // 100 % 100)

    def seconds_to_alarm(self, cmos: bytearray) -> int | None:
        """In how many seconds (1..86400) the clock next equals the alarm bytes; None: never."""
        hour = self._wanted(cmos[HOURS_ALARM], 24, hours=True)
        minute = self._wanted(cmos[MINUTES_ALARM], 60)
        second = self._wanted(cmos[SECONDS_ALARM], 60)
        if min(hour, minute, second) < _ANY:
            return None
        old = self.time_of_day(cmos)
        new = _first_match((old + 1) % DAY_SECONDS, hour, minute, second)
        return (new - old - 1) % DAY_SECONDS + 1

    def _wanted(self, byte: int, limit: int, hours: bool = False) -> int:
        """What an alarm byte asks for: a number, _ANY, or _NEVER."""
        if byte >= 0xC0:
            return _ANY
        value = self.decode_hour(byte) if hours else self.decode(byte)
        if value >= limit:
            return _NEVER
        return value if (self.encode_hour(value) if hours else self.encode(value)) == byte else _NEVER


_ANY, _NEVER = -1, -2


def _first_match(start: int, hour: int, minute: int, second: int) -> int:
    """The first time of day from `start` on, around midnight, that fits the wanted numbers."""
    for step in itertools.count():  # 24 is the hour of the start again, from its beginning
        at_hour = (start // 3_600 + step) % 24
        if hour not in (_ANY, at_hour):
            continue
        at_minute, at_second = (start // 60 % 60, start % 60) if step == 0 else (0, 0)
        if minute != _ANY and at_minute != minute:
            if at_minute > minute:
                continue
            at_minute, at_second = minute, 0
        if second != _ANY and at_second > second:
            # This minute is over; take the next one that fits.
            if minute != _ANY or at_minute == 59:
                continue
            at_minute, at_second = at_minute + 1, second
        elif second != _ANY:
            at_second = second
        break
    return at_hour * 3_600 + at_minute * 60 + at_second
