//! The differences, one row for each that several containers show alike.

use std::collections::BTreeMap;
use std::fmt;

use super::answers::Answers;
use super::explained::reason;

/// What both said of a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    fact: String,
    oracle: &'static str,
    theirs: Option<String>,
    ours: Option<String>,
    reason: Option<&'static str>,
}

/// Rows, with the levels and questions where they are so.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<Row, Vec<String>>);

impl Table {
    /// Compares every fact that the oracle stated, and every one of ours on the same topics; says how many.
    pub(super) fn compare(
        &mut self,
        oracle: &'static str,
        level: &'static str,
        theirs: &Answers,
        ours: &Answers,
    ) -> usize {
        let topic = |fact: &str| fact.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        let topics: std::collections::BTreeSet<_> =
            theirs.iter().map(|(fact, _)| topic(fact)).collect();
        let mut compared = 0;
        let both = theirs
            .iter()
            .chain(ours.iter().filter(|(fact, _)| theirs.get(fact).is_none()));
        for (fact, _) in both.filter(|(fact, _)| topics.contains(&topic(fact))) {
            compared += 1;
            let (their, our) = (theirs.get(fact), ours.get(fact));
            if their == our {
                continue;
            }
            let (question, name) = fact.split_once(' ').unwrap_or(("", fact));
            let row = Row {
                fact: name.to_owned(),
                oracle,
                theirs: their.map(str::to_owned),
                ours: our.map(str::to_owned),
                reason: reason(oracle, level, name, their, our),
            };
            self.0
                .entry(row)
                .or_default()
                .push(format!("{level}/{question}"));
        }
        compared
    }

    pub(super) fn unexplained(&self) -> usize {
        self.0.keys().filter(|row| row.reason.is_none()).count()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent = |value: &Option<String>| match value {
            Some(value) => format!("`{value}`"),
            None => "nothing".to_owned(),
        };
        for explained in [true, false] {
            let mut rows = self
                .0
                .iter()
                .filter(|(row, _)| row.reason.is_some() == explained)
                .peekable();
            if rows.peek().is_some() {
                writeln!(
                    f,
                    "\n{}:",
                    if explained {
                        "Explained differences"
                    } else {
                        "UNEXPLAINED differences"
                    }
                )?;
            }
            for (row, places) in rows {
                writeln!(f, "  {}   [{}]", row.fact, places.join(", "))?;
                writeln!(f, "    {:10} {}", row.oracle, absent(&row.theirs))?;
                writeln!(f, "    {:10} {}", "smokegate", absent(&row.ours))?;
                if let Some(reason) = row.reason {
                    writeln!(f, "    because    {reason}")?;
                }
            }
        }
        Ok(())
    }
}
