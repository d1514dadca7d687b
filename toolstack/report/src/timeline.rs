//! The moments of a migration, and the spans between them.

use std::time::Instant;

use crate::schema::DowntimeSplit;
use rxl_core::units::ms;

/// The moments of a migration on the source's monotonic clock; none for those that it did not
/// reach.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// The command started.
    pub began: Instant,
    /// libxl was asked to save.
    pub saving: Option<Instant>,
    /// libxl asked the guest to suspend.
    pub suspend_asked: Option<Instant>,
    /// The guest acknowledged that request.
    pub acknowledged: Option<Instant>,
    /// libxl saw that the guest's vCPUs had stopped.
    pub suspended: Option<Instant>,
    /// The last page was read from libxl.
    pub last_page: Option<Instant>,
    /// The last byte of the stream was read from libxl.
    pub stream_end: Option<Instant>,
    /// The target's READY was received.
    pub ready: Option<Instant>,
    /// GO was sent to the target.
    pub go: Option<Instant>,
    /// The target's message that the domain runs was received.
    pub done: Option<Instant>,
}

impl Timeline {
    /// A timeline of a command that starts now.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            saving: None,
            suspend_asked: None,
            acknowledged: None,
            suspended: None,
            last_page: None,
            stream_end: None,
            ready: None,
            go: None,
            done: None,
        }
    }

    /// Time from the start until libxl was asked to save, ms.
    pub fn setup(&self) -> f64 {
        self.saving.map_or(0.0, |saving| ms(saving - self.began))
    }

    /// The blackout, ms; none while it is not over.
    pub fn downtime(&self) -> Option<f64> {
        Some(ms(self.done? - self.suspended?))
    }

    /// The blackout's parts; none while it is not over. When nothing was dirty, the last page was
    /// read before libxl saw the guest suspended: that part is then 0.
    pub fn split(&self) -> Option<DowntimeSplit> {
        let (suspended, end) = (self.suspended?, self.stream_end?);
        let last_page = self.last_page?.clamp(suspended, end.max(suspended));
        let (ready, go, done) = (self.ready?, self.go?, self.done?);
        Some(DowntimeSplit {
            suspend: self.suspend_asked.map_or(0.0, |asked| ms(suspended - asked)),
            acknowledge: self
                .suspend_asked
                .zip(self.acknowledged)
                .map(|(asked, acknowledged)| ms(acknowledged - asked)),
            final_iteration: ms(last_page - suspended),
            state: ms(end - last_page),
            restore: ms(ready - end),
            handover: ms(go - ready),
            resume: ms(done - go),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn timeline() -> Timeline {
        let began = Instant::now();
        let at = |millis| Some(began + Duration::from_millis(millis));
        Timeline {
            began,
            saving: at(100),
            suspend_asked: at(900),
            acknowledged: at(950),
            suspended: at(1000),
            last_page: at(1040),
            stream_end: at(1060),
            ready: at(1200),
            go: at(1210),
            done: at(1250),
        }
    }

    #[test]
    fn the_parts_add_up_to_the_downtime() {
        let timeline = timeline();
        let split = timeline.split().unwrap();
        let sum =
            split.final_iteration + split.state + split.restore + split.handover + split.resume;
        assert!((sum - timeline.downtime().unwrap()).abs() < 0.01, "{split:?}");
        assert_eq!((split.suspend, split.acknowledge), (100.0, Some(50.0)));
    }

    #[test]
    fn a_last_page_before_the_suspend_was_noticed_costs_nothing() {
        let mut timeline = timeline();
        timeline.last_page = Some(timeline.began);
        let split = timeline.split().unwrap();
        assert_eq!(split.final_iteration, 0.0);
        assert_eq!(split.state, 60.0);
    }
}
