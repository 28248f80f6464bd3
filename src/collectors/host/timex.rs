//! How the kernel keeps its clock right, from `adjtimex(2)`, where the units are
//! documented.
//!
//! The kernel's own units come in three kinds: microseconds, microseconds that are
//! nanoseconds where the status says so, and millionths shifted up by 16 bits. Of
//! the last, those that pulse-per-second measures are named hertz and are not.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Adjtimex, Snapshot},
};

metrics! {
    /// Seconds between the local clock and its reference, as last told to the kernel.
    OFFSET: Gauge = "node_timex_offset_seconds" [];
    /// How fast the local clock is made to run, 1 being as fast as it would by itself.
    FREQUENCY: Gauge = "node_timex_frequency_adjustment_ratio" [];
    /// Seconds that the local clock is wrong by at most, as last told to the kernel and growing since.
    MAXERROR: Gauge = "node_timex_maxerror_seconds" [];
    /// Seconds that the local clock is estimated to be wrong by, as last told to the kernel.
    ESTIMATED_ERROR: Gauge = "node_timex_estimated_error_seconds" [];
    /// Status bits of the clock, as STA_* in adjtimex(2).
    STATUS: Gauge = "node_timex_status" [];
    /// Time constant of the loop that adjusts the clock.
    LOOP_TIME_CONSTANT: Gauge = "node_timex_loop_time_constant" [];
    /// Seconds between two ticks of the clock.
    TICK: Gauge = "node_timex_tick_seconds" [];
    /// Frequency error found by a pulse per second, as a ratio and despite the name not in hertz.
    PPS_FREQUENCY: Gauge = "node_timex_pps_frequency_hertz" [];
    /// Seconds of jitter of the pulse per second.
    PPS_JITTER: Gauge = "node_timex_pps_jitter_seconds" [];
    /// Length of a calibration interval of the pulse per second, as the power of two in seconds.
    PPS_SHIFT: Gauge = "node_timex_pps_shift_seconds" [];
    /// Stability of the frequency found by a pulse per second, as a ratio and despite the name not in hertz.
    PPS_STABILITY: Gauge = "node_timex_pps_stability_hertz" [];
    /// Pulses that came with more jitter than is allowed.
    PPS_JITTER_EXCEEDED: Counter = "node_timex_pps_jitter_total" [];
    /// Calibration intervals of the pulse per second.
    PPS_CALIBRATION: Counter = "node_timex_pps_calibration_total" [];
    /// Calibration intervals of the pulse per second that failed.
    PPS_ERROR: Counter = "node_timex_pps_error_total" [];
    /// Calibration intervals of the pulse per second with a frequency less stable than is allowed.
    PPS_STABILITY_EXCEEDED: Counter = "node_timex_pps_stability_exceeded_total" [];
    /// Seconds that international atomic time is ahead of UTC, or 0 where nobody told the kernel.
    TAI_OFFSET: Gauge = "node_timex_tai_offset_seconds" [];
    /// Whether something keeps the clock right, such as an NTP daemon (1), or nothing does (0).
    SYNC_STATUS: Gauge = "node_timex_sync_status" [];
}

const MICROSECONDS: f64 = 1e6;
/// Parts per million, with 16 bits of fraction.
const PPM_16: f64 = 1e6 * 65536.0;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Timex;

impl Collector for Timex {
    const NAME: &'static str = "timex";
    const ABOUT: &'static str = "how the kernel keeps its clock right";
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
    let parts_of_second = f64::from(timex.units_per_second());
    let mut out = Families::default();
    out.add(&OFFSET, [], ratio(timex.offset, parts_of_second));
    out.add(&FREQUENCY, [], 1.0 + ratio(timex.freq, PPM_16));
    out.add(&MAXERROR, [], ratio(timex.maxerror, MICROSECONDS));
    out.add(&ESTIMATED_ERROR, [], ratio(timex.esterror, MICROSECONDS));
    out.add(&STATUS, [], i64::from(timex.status));
    out.add(&LOOP_TIME_CONSTANT, [], timex.constant);
    out.add(&TICK, [], ratio(timex.tick, MICROSECONDS));
    out.add(&PPS_FREQUENCY, [], ratio(timex.ppsfreq, PPM_16));
    out.add(&PPS_JITTER, [], ratio(timex.jitter, parts_of_second));
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
    reason = "Prometheus stores every value as a float anyway"
)]
fn ratio(count: i64, per_unit: f64) -> f64 {
    count as f64 / per_unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number differs from every other, so that a swap would show.
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
