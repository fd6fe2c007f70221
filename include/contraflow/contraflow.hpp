#pragma once

/// @file
/// What a program composes: models, solvers, rewards, advantages, policies, objectives, and the
/// three ways to train.
///
/// Observers, checkpoints, files, kernels and toy tasks have headers of their own: what is not
/// included is not compiled.

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/model/conversions.hpp>
#include <contraflow/model/guidance.hpp>
#include <contraflow/model/mlp.hpp>
#include <contraflow/model/module_velocity.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/snapshot_policy.hpp>
#include <contraflow/reward/analytic.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/solver/black_box.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/runge_kutta.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/solver/window.hpp>
#include <contraflow/train/offline.hpp>
#include <contraflow/train/pretrain.hpp>
#include <contraflow/train/trainer.hpp>
#include <contraflow/version.hpp>
