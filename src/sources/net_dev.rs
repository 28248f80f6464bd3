//! Parser of a process's `net/dev`: traffic of the network interfaces in its namespace, documented
//! in `proc_pid_net(5)`.

/// Number of counters parsed per row; no kernel has fewer.
const COUNTERS: usize = 12;

/// One row: an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceRow<'a> {
    /// Interface name.
    pub name: &'a str,
    columns: &'a str,
}

/// Iterates over the rows after the two header lines, with their line numbers; `None` for a line
/// that is not a row.
pub fn interface_rows(table: &[u8]) -> impl Iterator<Item = (usize, Option<InterfaceRow<'_>>)> {
    let lines = (1..).zip(table.split(|byte| *byte == b'\n')).skip(2);
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| (number, InterfaceRow::parse(line)))
}

impl<'a> InterfaceRow<'a> {
    /// Parses `  eth0: 1 2 …`, without a space after the colon in old kernels, or `a:1: 1 2 …` for
    /// an alias.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (name, columns) = std::str::from_utf8(line).ok()?.rsplit_once(':')?;
        let name = name.trim_ascii_start();
        Some(Self { name, columns })
    }

    /// Returns all counters, or `None` if any is invalid: received bytes, packets, errors, dropped
    /// packets and four rarely used ones, then the first four for transmission.
    #[must_use]
    pub fn counters(&self) -> Option<[u64; COUNTERS]> {
        let mut counters = [0; COUNTERS];
        let mut words = self.columns.split_ascii_whitespace();
        for counter in &mut counters {
            *counter = words.next()?.parse().ok()?;
        }
        Some(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_a_name_and_its_counters() {
        let table = b"Inter-|\n face |\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                      eth0:9 9 9 9 9 9 9 9 9 9 9 9\n  a:1: 1 2\n eth1 1 2\n \xff: 1\n";
        let rows: Vec<_> = interface_rows(table)
            .map(|(number, row)| (number, row.map(|row| (row.name, row.counters()))))
            .collect();
        assert_eq!(
            rows,
            [
                (
                    3,
                    Some(("lo", Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])))
                ),
                (4, Some(("eth0", Some([9; 12])))),
                (5, Some(("a:1", None))),
                (6, None),
                (7, None),
            ]
        );
        assert_eq!(interface_rows(b"").count(), 0);
    }
}
