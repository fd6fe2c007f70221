#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/crd.hpp>
#include <contraflow/objective/dgpo.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/window.hpp>

namespace flows {

namespace cf = contraflow;

/// Calls @p checked(solver, objective) for the compositions that are to be right on every device,
/// each in a section of its own.
template <class F>
void each_composition(F&& checked) {
  SECTION("NFT") { checked(cf::DpmSolver<2>{}, cf::Nft{} + 0.1 * cf::VelocityKl{}); }
  SECTION("the paper's NFT") { checked(cf::DpmSolver<2>{}, cf::PaperNft{}); }
  SECTION("Flow-GRPO") { checked(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::TransitionKl{}); }
  SECTION("GRPO-Guard") { checked(cf::FlowSde{}, cf::GrpoGuard{}); }
  SECTION("MixGRPO") { checked(cf::Window<cf::FlowSde, cf::DpmSolver<2>>{}, cf::Grpo{}); }
  SECTION("AWM") { checked(cf::DpmSolver<1>{}, cf::Awm{}); }
  SECTION("DPO") { checked(cf::DpmSolver<1>{}, cf::Dpo{}); }
  SECTION("DGPO") { checked(cf::DpmSolver<1>{}, cf::Dgpo{}); }
  SECTION("CRD") { checked(cf::DpmSolver<1>{}, cf::Crd{}); }
  SECTION("reward-weighted") { checked(cf::DpmSolver<1>{}, cf::RewardWeighted{}); }
}

}  // namespace flows
