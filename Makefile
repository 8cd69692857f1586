# make help lists the targets. The environment is .venv (Python and ROS 2 from wheels) and install/ (this package, built
# by colcon); both are made when they are missing or out of date. ROS_DISTRO=jazzy takes ROS 2 Jazzy instead of Kilted, in
# .venv-jazzy and install/jazzy; everything else still comes from .venv.

PYTHON ?= python3
ROS_DISTRO ?= kilted
SHELL := /bin/bash
.DEFAULT_GOAL := help

IN_ENVIRONMENT := source tools/environment.bash &&
# A domain of its own, on this machine only, so that neither a robot nor another run on the network takes part.
ON_OWN_DOMAIN := export ROS_DOMAIN_ID=$${ROS_DOMAIN_ID:-$$((RANDOM % 100 + 1))} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST;

OTHER := $(filter-out kilted,$(ROS_DISTRO))
VENV := .venv$(OTHER:%=-%)/requirements.stamp
BUILD := install$(OTHER:%=/%)/build.stamp
# The other tests do not meet ROS, and may run side by side: a process for each of two cores.
APART := $(if $(OTHER),,pytest -n 2 --dist loadfile --ignore test/ros test &&)
# Node, services, parameters and lifecycle.
SMOKE := $(addprefix test/ros/,test_distribution.py test_lifecycle.py test_parameters.py test_processes.py)
PACKAGE_FILES := $(shell find msg srv launch config ovseg_ros scripts -type f -not -name '*.pyc' 2>/dev/null)

.PHONY: help setup demo test smoke test-gpu gpu-check lint bench clean distclean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(BUILD) ## Make .venv and build the package with colcon; quick when nothing changed

demo: $(BUILD) ## Simulated camera, node and demo client over DDS; pictures and summary.json in out/demo
	@$(IN_ENVIRONMENT) $(ON_OWN_DOMAIN) python tools/run_demo.py --out out/demo

test: $(BUILD) ## Run all tests, the ROS ones included; with ROS_DISTRO=jazzy, the ROS ones
	@$(IN_ENVIRONMENT) $(ON_OWN_DOMAIN) export OMP_NUM_THREADS=1; $(APART) pytest test/ros

smoke: $(BUILD) ## Run the few ROS tests, and the demo, that show whether a distribution works (ROS_DISTRO=jazzy)
	@$(IN_ENVIRONMENT) $(ON_OWN_DOMAIN) export OMP_NUM_THREADS=1; pytest $(SMOKE) && python tools/run_demo.py --out out/demo

test-gpu: $(BUILD) ## Run the tests that need a CUDA device; never part of make test's verdict
	@$(IN_ENVIRONMENT) pytest -m gpu test
	@$(IN_ENVIRONMENT) pytest test/core/test_merge.py

gpu-check: $(BUILD) ## On a machine with a GPU: the GPU tests, then speed against the goals; out/gpu-check/report.md
	@$(IN_ENVIRONMENT) $(ON_OWN_DOMAIN) python tools/gpu_check.py

lint: $(VENV) ## Check formatting, style and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy ovseg_ros examples

bench: $(BUILD) ## Measure the model call and the node's own cost
	@$(IN_ENVIRONMENT) $(ON_OWN_DOMAIN) ovseg bench

clean: ## Remove what was built and written, but neither .venv nor data sets and training runs
	rm -rf build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf .venv .venv-jazzy

$(VENV): $(wildcard requirements*.txt) setup.py ovseg_ros/version_bounds.txt $(wildcard tools/*.bash) tools/fix_ros_wheels.py
	PYTHON="$(PYTHON)" ROS_DISTRO="$(ROS_DISTRO)" bash tools/setup_venv.bash
	@touch $@

$(BUILD): $(VENV) package.xml CMakeLists.txt $(PACKAGE_FILES)
	@$(IN_ENVIRONMENT) colcon build --build-base build$(OTHER:%=/%) --install-base install$(OTHER:%=/%) --symlink-install --event-handlers console_cohesion-
	@touch $@
