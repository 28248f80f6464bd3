//! Clock discipline of the kernel, from `adjtimex(2)`, where the units are documented.
//!
//! The kernel uses three kinds of units: microseconds, microseconds that are nanoseconds if a
//! status bit is set, and parts per million with 16 bits of fraction. The pulse-per-second
//! values of the last kind are named hertz but are not in hertz.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Adjtimex, Snapshot},
};

metrics! {
    /// Time offset between local system and reference clock, in seconds.
    OFFSET: Gauge = "node_timex_offset_seconds" [];
    /// Local clock frequency adjustment, as a ratio; 1 is no adjustment.
    FREQUENCY: Gauge = "node_timex_frequency_adjustment_ratio" [];
    /// Maximum error in seconds.
    MAXERROR: Gauge = "node_timex_maxerror_seconds" [];
    /// Estimated error in seconds.
    ESTIMATED_ERROR: Gauge = "node_timex_estimated_error_seconds" [];
    /// Value of the status array bits, STA_* in adjtimex(2).
    STATUS: Gauge = "node_timex_status" [];
    /// Phase-locked loop time constant.
    LOOP_TIME_CONSTANT: Gauge = "node_timex_loop_time_constant" [];
    /// Seconds between clock ticks.
    TICK: Gauge = "node_timex_tick_seconds" [];
    /// Pulse per second frequency error, as a ratio despite the name.
    PPS_FREQUENCY: Gauge = "node_timex_pps_frequency_hertz" [];
    /// Pulse per second jitter in seconds.
    PPS_JITTER: Gauge = "node_timex_pps_jitter_seconds" [];
    /// Pulse per second interval duration, as an exponent of two in seconds.
    PPS_SHIFT: Gauge = "node_timex_pps_shift_seconds" [];
    /// Pulse per second stability, an average of recent frequency changes, as a ratio despite the
    /// name.
    PPS_STABILITY: Gauge = "node_timex_pps_stability_hertz" [];
    /// Pulse per second count of jitter limit exceeded events.
    PPS_JITTER_EXCEEDED: Counter = "node_timex_pps_jitter_total" [];
    /// Pulse per second count of calibration intervals.
    PPS_CALIBRATION: Counter = "node_timex_pps_calibration_total" [];
    /// Pulse per second count of calibration errors.
    PPS_ERROR: Counter = "node_timex_pps_error_total" [];
    /// Pulse per second count of stability limit exceeded events.
    PPS_STABILITY_EXCEEDED: Counter = "node_timex_pps_stability_exceeded_total" [];
    /// International Atomic Time (TAI) offset in seconds; 0 if the kernel does not know it.
    TAI_OFFSET: Gauge = "node_timex_tai_offset_seconds" [];
    /// Whether the clock is synchronized to a reliable server (1) or not (0).
    SYNC_STATUS: Gauge = "node_timex_sync_status" [];
}

const MICROSECONDS: f64 = 1e6;
/// Parts per million, with 16 bits of fraction.
const PPM_16: f64 = 1e6 * 65536.0;

#[derive(Debug)]
pub(super) struct Timex;

impl Collector for Timex {
    const NAME: &'static str = "timex";
    const ABOUT: &'static str = "clock synchronization (adjtimex)";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.adjtimex()?))
    }
}

fn families(timex: &Adjtimex) -> Families {
    let units_per_second = f64::from(timex.units_per_second());
    let mut out = Families::default();
    out.add(&OFFSET, [], ratio(timex.offset, units_per_second));
    out.add(&FREQUENCY, [], 1.0 + ratio(timex.freq, PPM_16));
    out.add(&MAXERROR, [], ratio(timex.maxerror, MICROSECONDS));
    out.add(&ESTIMATED_ERROR, [], ratio(timex.esterror, MICROSECONDS));
    out.add(&STATUS, [], i64::from(timex.status));
    out.add(&LOOP_TIME_CONSTANT, [], timex.constant);
    out.add(&TICK, [], ratio(timex.tick, MICROSECONDS));
    out.add(&PPS_FREQUENCY, [], ratio(timex.ppsfreq, PPM_16));
    out.add(&PPS_JITTER, [], ratio(timex.jitter, units_per_second));
    out.add(&PPS_SHIFT, [], i64::from(timex.shift));
    out.add(&PPS_STABILITY, [], ratio(timex.stabil, PPM_16));
    out.add(&PPS_JITTER_EXCEEDED, [], timex.jitcnt);
    out.add(&PPS_CALIBRATION, [], timex.calcnt);
    out.add(&PPS_ERROR, [], timex.errcnt);
    out.add(&PPS_STABILITY_EXCEEDED, [], timex.stbcnt);
    out.add(&TAI_OFFSET, [], i64::from(timex.tai));
    out.add(&SYNC_STATUS, [], timex.is_synchronised);
    out
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are 64-bit floats"
)]
fn ratio(count: i64, per_unit: f64) -> f64 {
    count as f64 / per_unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values differ, so that swapped fields are detected.
    const TIMEX: Adjtimex = Adjtimex {
        is_synchronised: true,
        status: 0x2001,
        offset: -250_000,
        freq: 65_536_000,
        maxerror: 3_000_000,
        esterror: 750,
        constant: 7,
        tick: 10_000,
        ppsfreq: -131_072,
        jitter: 8000,
        shift: 4,
        stabil: 65536,
        jitcnt: 11,
        calcnt: 12,
        errcnt: 13,
        stbcnt: 14,
        tai: 37,
    };

    #[test]
    fn converts_kernel_units_to_base_units() {
        assert_eq!(
            families(&TIMEX).lines(),
            [
                "node_timex_offset_seconds -0.00025",
                "node_timex_frequency_adjustment_ratio 1.001",
                "node_timex_maxerror_seconds 3",
                "node_timex_estimated_error_seconds 0.00075",
                "node_timex_status 8193",
                "node_timex_loop_time_constant 7",
                "node_timex_tick_seconds 0.01",
                "node_timex_pps_frequency_hertz -2e-6",
                "node_timex_pps_jitter_seconds 8e-6",
                "node_timex_pps_shift_seconds 4",
                "node_timex_pps_stability_hertz 1e-6",
                "node_timex_pps_jitter_total 11",
                "node_timex_pps_calibration_total 12",
                "node_timex_pps_error_total 13",
                "node_timex_pps_stability_exceeded_total 14",
                "node_timex_tai_offset_seconds 37",
                "node_timex_sync_status 1",
            ]
        );
    }

    #[test]
    fn offset_and_jitter_are_microseconds_without_sta_nano() {
        let timex = Adjtimex {
            status: 0x40,
            is_synchronised: false,
            ..TIMEX
        };
        let lines = families(&timex).lines();
        assert_eq!(lines[0], "node_timex_offset_seconds -0.25");
        assert_eq!(lines[8], "node_timex_pps_jitter_seconds 0.008");
        assert_eq!(lines[16], "node_timex_sync_status 0");
    }
}
