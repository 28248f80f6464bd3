//! Speeds among the link modes, from `ethtool_link_mode_bit_indices` in
//! `include/uapi/linux/ethtool.h` of Linux 6.1. Modes that were added later are not exposed as
//! speeds.

/// A link mode that stands for a speed.
pub(super) struct Speed {
    /// Bit number of the link mode.
    pub(super) mode: u32,
    pub(super) megabits: u64,
    pub(super) duplex: &'static str,
    pub(super) name: &'static str,
}

const fn speed(mode: u32, megabits: u64, duplex: &'static str, name: &'static str) -> Speed {
    Speed {
        mode,
        megabits,
        duplex,
        name,
    }
}

pub(super) static SPEEDS: &[Speed] = &[
    speed(0, 10, "half", "10baseT"),
    speed(1, 10, "full", "10baseT"),
    speed(2, 100, "half", "100baseT"),
    speed(3, 100, "full", "100baseT"),
    speed(4, 1000, "half", "1000baseT"),
    speed(5, 1000, "full", "1000baseT"),
    speed(12, 10_000, "full", "10000baseT"),
    speed(15, 2500, "full", "2500baseX"),
    speed(17, 1000, "full", "1000baseKX"),
    speed(18, 10_000, "full", "10000baseKX4"),
    speed(19, 10_000, "full", "10000baseKR"),
    speed(20, 10_000, "full", "10000baseR_FEC"),
    speed(21, 20_000, "full", "20000baseMLD2"),
    speed(22, 20_000, "full", "20000baseKR2"),
    speed(23, 40_000, "full", "40000baseKR4"),
    speed(24, 40_000, "full", "40000baseCR4"),
    speed(25, 40_000, "full", "40000baseSR4"),
    speed(26, 40_000, "full", "40000baseLR4"),
    speed(27, 56_000, "full", "56000baseKR4"),
    speed(28, 56_000, "full", "56000baseCR4"),
    speed(29, 56_000, "full", "56000baseSR4"),
    speed(30, 56_000, "full", "56000baseLR4"),
    speed(31, 25_000, "full", "25000baseCR"),
    speed(32, 25_000, "full", "25000baseKR"),
    speed(33, 25_000, "full", "25000baseSR"),
    speed(34, 50_000, "full", "50000baseCR2"),
    speed(35, 50_000, "full", "50000baseKR2"),
    speed(36, 100_000, "full", "100000baseKR4"),
    speed(37, 100_000, "full", "100000baseSR4"),
    speed(38, 100_000, "full", "100000baseCR4"),
    speed(39, 100_000, "full", "100000baseLR4_ER4"),
    speed(40, 50_000, "full", "50000baseSR2"),
    speed(41, 1000, "full", "1000baseX"),
    speed(42, 10_000, "full", "10000baseCR"),
    speed(43, 10_000, "full", "10000baseSR"),
    speed(44, 10_000, "full", "10000baseLR"),
    speed(45, 10_000, "full", "10000baseLRM"),
    speed(46, 10_000, "full", "10000baseER"),
    speed(47, 2500, "full", "2500baseT"),
    speed(48, 5000, "full", "5000baseT"),
    speed(52, 50_000, "full", "50000baseKR"),
    speed(53, 50_000, "full", "50000baseSR"),
    speed(54, 50_000, "full", "50000baseCR"),
    speed(55, 50_000, "full", "50000baseLR_ER_FR"),
    speed(56, 50_000, "full", "50000baseDR"),
    speed(57, 100_000, "full", "100000baseKR2"),
    speed(58, 100_000, "full", "100000baseSR2"),
    speed(59, 100_000, "full", "100000baseCR2"),
    speed(60, 100_000, "full", "100000baseLR2_ER2_FR2"),
    speed(61, 100_000, "full", "100000baseDR2"),
    speed(62, 200_000, "full", "200000baseKR4"),
    speed(63, 200_000, "full", "200000baseSR4"),
    speed(64, 200_000, "full", "200000baseLR4_ER4_FR4"),
    speed(65, 200_000, "full", "200000baseDR4"),
    speed(66, 200_000, "full", "200000baseCR4"),
    speed(67, 100, "full", "100baseT1"),
    speed(68, 1000, "full", "1000baseT1"),
    speed(69, 400_000, "full", "400000baseKR8"),
    speed(70, 400_000, "full", "400000baseSR8"),
    speed(71, 400_000, "full", "400000baseLR8_ER8_FR8"),
    speed(72, 400_000, "full", "400000baseDR8"),
    speed(73, 400_000, "full", "400000baseCR8"),
    speed(75, 100_000, "full", "100000baseKR"),
    speed(76, 100_000, "full", "100000baseSR"),
    speed(77, 100_000, "full", "100000baseLR_ER_FR"),
    speed(78, 100_000, "full", "100000baseCR"),
    speed(79, 100_000, "full", "100000baseDR"),
    speed(80, 200_000, "full", "200000baseKR2"),
    speed(81, 200_000, "full", "200000baseSR2"),
    speed(82, 200_000, "full", "200000baseLR2_ER2_FR2"),
    speed(83, 200_000, "full", "200000baseDR2"),
    speed(84, 200_000, "full", "200000baseCR2"),
    speed(85, 400_000, "full", "400000baseKR4"),
    speed(86, 400_000, "full", "400000baseSR4"),
    speed(87, 400_000, "full", "400000baseLR4_ER4_FR4"),
    speed(88, 400_000, "full", "400000baseDR4"),
    speed(89, 400_000, "full", "400000baseCR4"),
    speed(90, 100, "half", "100baseFX"),
    speed(91, 100, "full", "100baseFX"),
    speed(92, 10, "full", "10baseT1L"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_named_after_its_speed() {
        for speed in SPEEDS {
            let (megabits, _) = speed.name.split_once("base").unwrap();
            assert_eq!(megabits, speed.megabits.to_string());
        }
        assert!(SPEEDS.is_sorted_by(|a, b| a.mode < b.mode));
    }
}
