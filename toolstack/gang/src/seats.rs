//! How far each member has come.

use rxl_core::text::one_line;
use rxl_session::gang_words::Ended;

/// How far a member has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Checking,
    Prepared,
    Stop,
    Suspend,
    Ready,
    Settled,
    Ended,
}

/// A member, as its leader knows it.
pub(crate) struct Seat {
    pub(crate) step: Step,
    pub(crate) domid: u32,
    /// The domain's name, fit for one line.
    pub(crate) name: String,
    pub(crate) ended: Option<Ended>,
}

/// All members, in the order in which the user named their domains.
pub(crate) struct Seats(Vec<Seat>);

impl Seats {
    /// Members that move these domains, by the names that the user gave.
    pub(crate) fn new(names: &[String]) -> Self {
        let seat = |name: &String| Seat {
            step: Step::Checking,
            domid: 0,
            name: one_line(name),
            ended: None,
        };
        Self(names.iter().map(seat).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Seat> {
        self.0.iter()
    }

    pub(crate) fn get_mut(&mut self, member: usize) -> Option<&mut Seat> {
        self.0.get_mut(member)
    }

    /// A member's domain, for people.
    pub(crate) fn name(&self, member: usize) -> &str {
        self.0.get(member).map_or("", |seat| &seat.name)
    }

    /// How far a member has come. Who is no member has ended.
    pub(crate) fn step(&self, member: usize) -> Step {
        self.0.get(member).map_or(Step::Ended, |seat| seat.step)
    }

    /// Whether all have come so far.
    pub(crate) fn all_at(&self, step: Step) -> bool {
        self.0.iter().all(|seat| seat.step >= step)
    }

    /// The members that have not ended.
    pub(crate) fn running(&self) -> Vec<usize> {
        let running = self.0.iter().enumerate().filter(|(_, seat)| seat.step < Step::Ended);
        running.map(|(member, _)| member).collect()
    }

    /// The domains whose members have not come so far, for people.
    pub(crate) fn late(&self, step: Step) -> String {
        let late = self.0.iter().filter(|seat| seat.step < step);
        late.map(|seat| seat.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// What each member has ended with, if it has.
    pub(crate) fn into_ends(self) -> impl Iterator<Item = Option<Ended>> {
        self.0.into_iter().map(|seat| seat.ended)
    }
}
