//! A profile's rules, checked, and what they say for each call of an architecture.
use super::{
    architecture::Architecture,
    names::{self, Condition, answer},
    table::{self, Table},
};
use crate::container::{Error, Result, spec};
use std::collections::{BTreeMap, BTreeSet};

const ENOSYS: u32 = libc::ENOSYS as u32;

/// All of a profile.
pub(super) struct Rules {
    table: Table,
    default: u32,
    all: Vec<Rule>,
}

struct Rule {
    names: Vec<String>,
    answer: u32,
    /// Each is enough; none is no condition at all.
    alternatives: Vec<Vec<Condition>>,
}

/// What is said about one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Decides alone.
    pub(super) always: Option<u32>,
    /// Conditions and the answer, in order.
    pub(super) cases: Vec<(Vec<Condition>, u32)>,
}

impl Rules {
    pub(super) fn of(profile: &spec::Seccomp) -> Result<Self> {
        let value = profile.default_errno_ret;
        let fields = ["defaultAction", "defaultErrnoRet"];
        let default = names::action(&profile.default_action, value, "linux.seccomp", fields)?;
        if default == answer::USER_NOTIF {
            let problem = "cannot be SCMP_ACT_NOTIFY: it would stop the calls that hand the notifications over";
            return Err(Error::spec("linux.seccomp.defaultAction", problem));
        }
        let rules = profile.syscalls.iter().enumerate();
        let rules = rules.map(|(at, rule)| Rule::of(rule, &format!("linux.seccomp.syscalls[{at}]")));
        Ok(Self {
            table: Table::new(),
            default,
            all: rules.collect::<Result<_>>()?,
        })
    }

    /// For calls that no rule names.
    pub(super) fn default(&self) -> u32 {
        self.default
    }

    /// For calls that are newer than all that the rules name.
    pub(super) fn newer(&self) -> u32 {
        match self.default & answer::ACTION {
            answer::ALLOW | answer::LOG | answer::TRACE => self.default,
            _ => answer::ERRNO | ENOSYS,
        }
    }

    pub(super) fn notifies(&self) -> bool {
        self.all.iter().any(|rule| rule.answer == answer::USER_NOTIF)
    }

    pub(super) fn unknown(&self) -> BTreeSet<String> {
        let names = self.all.iter().flat_map(|rule| &rule.names);
        names.filter(|name| !self.table.knows(name)).cloned().collect()
    }

    /// The calls that rules name, by number, and what they say. A rule that says what the default says leaves its calls
    /// without a verdict.
    pub(super) fn verdicts(&self, architecture: Architecture) -> BTreeMap<u32, Verdict> {
        let mut verdicts = BTreeMap::new();
        for rule in &self.all {
            for name in &rule.names {
                if let Some(number) = self.table.number(name, architecture) {
                    rule.add_to(&mut verdicts, number, &rule.alternatives, self.default);
                }
                if architecture == Architecture::X86
                    && let Some((number, condition)) = table::multiplexed(name)
                {
                    rule.add_to(&mut verdicts, number, &[vec![condition]], self.default);
                }
            }
        }
        verdicts
    }
}

impl Rule {
    fn of(rule: &spec::SyscallRule, key: &str) -> Result<Self> {
        let answer = names::action(&rule.action, rule.errno_ret, key, ["action", "errnoRet"])?;
        if rule.names.iter().any(String::is_empty) || rule.names.is_empty() {
            return Err(Error::spec(
                format!("{key}.names"),
                "has no name, or an empty one: name the system calls",
            ));
        }
        if answer == answer::USER_NOTIF && rule.names.iter().any(|name| name == "write") {
            let problem = "write cannot have SCMP_ACT_NOTIFY: it is needed to hand the notifications over";
            return Err(Error::spec(format!("{key}.action"), problem));
        }
        let conditions = rule.args.iter().enumerate();
        let conditions = conditions.map(|(at, arg)| Condition::of(arg, &format!("{key}.args[{at}]")));
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        let mut seen = BTreeSet::new();
        let twice = !conditions.iter().all(|it| seen.insert(it.argument));
        let alternatives = match conditions {
            none if none.is_empty() => Vec::new(),
            each if twice => each.into_iter().map(|it| vec![it]).collect(),
            all => vec![all],
        };
        Ok(Self {
            names: rule.names.clone(),
            answer,
            alternatives,
        })
    }

    fn add_to(&self, to: &mut BTreeMap<u32, Verdict>, number: u32, alternatives: &[Vec<Condition>], default: u32) {
        let verdict = to.entry(number).or_default();
        if self.answer == default {
            return;
        }
        if alternatives.is_empty() {
            verdict.always.get_or_insert(self.answer);
        }
        verdict
            .cases
            .extend(alternatives.iter().map(|all| (all.clone(), self.answer)));
    }
}
