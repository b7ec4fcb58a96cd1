//! Which platforms of the image each variant runs, and whether all that must be tested are.

use smokegate_image::Platform;

use super::{ResolveError, Resolver};
use crate::gate_file::{Platforms, Span, Spanned, Variant};
use crate::plan::VariantPlan;
use crate::request::PlanError;

impl Resolver<'_> {
    /// `--platform`, else the variant's own, else the file's, else the host's; by their places in the image.
    pub(super) fn platforms_of(
        &mut self,
        variant: Option<&Variant>,
    ) -> Result<Vec<usize>, ResolveError> {
        let input = self.input;
        let own = variant.and_then(|variant| variant.platform.as_ref());
        if !input.platform_is_asked {
            if let Some(own) = own {
                return Ok(self.find(own).into_iter().collect());
            }
            if let Some(required) = self.required() {
                return Ok(required);
            }
        }
        let missing = || PlanError::NoPlatform {
            wanted: Platform::host().to_string(),
            available: self.names(),
        };
        let selected = input.selected.ok_or_else(missing)?;
        Ok(vec![selected])
    }

    /// The platforms that the file says must be tested; `None` where it does not say.
    fn required(&mut self) -> Option<Vec<usize>> {
        match self.input.file.platforms.as_ref()? {
            Platforms::All => Some((0..self.input.platforms.len()).collect()),
            Platforms::These(list) => {
                let mut found: Vec<usize> = list.iter().filter_map(|one| self.find(one)).collect();
                found.sort_unstable();
                found.dedup();
                Some(found)
            }
        }
    }

    /// Notes each platform that must be tested and that no variant runs. A run of some variants is partial anyway.
    pub(super) fn every_platform_is_run(&mut self, variants: &[VariantPlan]) {
        if self.input.platform_is_asked || !self.input.only.is_empty() {
            return;
        }
        for platform in self.required().unwrap_or_default() {
            if !variants.iter().any(|variant| variant.platform == platform) {
                let (name, _) = self.input.platforms[platform];
                let message = format!(
                    "`platforms` wants {name} tested, and every variant names another `platform`"
                );
                let hint = "leave `platform` out of a variant: it runs on all of them then";
                let span = match self.input.file.platforms.as_ref() {
                    Some(Platforms::These(list)) => list.first().map(|one| one.span),
                    _ => None,
                };
                self.problem(span.unwrap_or_else(Span::default), &message, Some(hint));
            }
        }
    }

    /// The image's platform that serves best where this one is wanted.
    fn find(&mut self, wanted: &Spanned<Platform>) -> Option<usize> {
        let ranked = self.input.platforms.iter().enumerate();
        let ranked = ranked.filter_map(|(place, (name, _))| {
            let offered: Platform = name.parse().ok()?;
            Some((wanted.value.rank(&offered)?, place))
        });
        let best = ranked.min().map(|(_, place)| place);
        if best.is_none() {
            let message = format!("the image has no {}", wanted.value);
            let hint = format!("it has {}", self.names().join(", "));
            self.problem(wanted.span, &message, Some(&hint));
        }
        best
    }

    fn names(&self) -> Vec<String> {
        let names = self.input.platforms.iter();
        names.map(|(name, _)| (*name).to_owned()).collect()
    }
}
