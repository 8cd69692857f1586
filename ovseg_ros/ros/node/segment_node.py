"""The node `ovseg`: images in, named segments out, under a vocabulary that changes while it runs.

This file is the wiring: lifecycle, services and process. Callbacks only hand things over to the threads of `Pipeline`.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future as RosFuture
from std_srvs.srv import SetBool

from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import OvsegError
from ovseg_ros.core.vocabulary import initial_specs, saving_path
from ovseg_ros.ros.node.bond import HEARTBEAT_PERIOD, Bond
from ovseg_ros.ros.node.camera import Camera, camera_topics
from ovseg_ros.ros.node.diagnostics import Diagnostics, model_status
from ovseg_ros.ros.node.fault_log import describe
from ovseg_ros.ros.node.frame_requests import FrameRequests
from ovseg_ros.ros.node.memory import device_memory, give_back, host_memory
from ovseg_ros.ros.node.node_process import run_node
from ovseg_ros.ros.node.parameter_spec import declare, unknown_parameters
from ovseg_ros.ros.node.parameters import (
    PARAMETERS,
    camera_names,
    camera_parameters,
    engine_options,
    later_parameters,
    merge_parameters,
    validate,
)
from ovseg_ros.ros.node.pipeline import Pipeline
from ovseg_ros.ros.node.query import phrase_vocabulary, query_response, refused_query
from ovseg_ros.ros.node.topic_types import check_one_type
from ovseg_ros.ros.node.transitions import refuse_impossible_transitions
from ovseg_ros.ros.node.vocabulary_service import build_vocabulary
from ovseg_ros.srv import GetVocabulary, Query, SetVocabulary

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import PanopticSegmenter

Answer = TypeVar("Answer")
SegmenterFactory = Callable[[str, str, EngineOptions, Callable[[str], None]], "PanopticSegmenter"]
Transition = Callable[["SegmentNode", LifecycleState], TransitionCallbackReturn]
_UPDATE_PERIOD = HEARTBEAT_PERIOD
"""Seconds between looks at who wants outputs and whether images come; matched events, where they exist, are faster."""


def _explained(transition: Transition) -> Transition:
    """What a transition raises is logged and shown in diagnostics; rclpy alone would swallow it."""

    @wraps(transition)
    def explained(self: "SegmentNode", state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.note_fault(f"{transition.__name__} failed: {describe(error)}")
            return TransitionCallbackReturn.ERROR

    return explained


class SegmentNode(LifecycleNode):
    """Configure loads model and vocabulary, activate subscribes and publishes.

    Args:
        segmenter_factory: makes the segmenter, of arguments as of `build_segmenter`; by default that.

    Attributes:
        pipeline: what runs while the node is configured; else None.

    Raises:
        ConfigError: a parameter given at start has the wrong type or is out of range.
    """

    def __init__(self, segmenter_factory: SegmenterFactory | None = None) -> None:
        super().__init__("ovseg")
        refuse_impossible_transitions(self)
        self.add_on_set_parameters_callback(validate)
        declare(self, PARAMETERS)
        if unknown := unknown_parameters(self, later_parameters(self._value("cameras"))):
            self.get_logger().warning(unknown)
        self._make_segmenter = segmenter_factory or _build_segmenter
        self.pipeline: Pipeline | None = None
        self._is_active = False
        self._without_model = "unconfigured"
        self._doing = ""
        self._fault = ""
        self._requests = FrameRequests(self)
        self._bond = Bond(self, has_manager=not self._value("autostart"))
        # By a clock of its own: simulated time may stand still, and that is worth a warning too.
        self.create_timer(_UPDATE_PERIOD, self._update, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._diagnostics = Diagnostics(self, self._statuses)
        # A pending answer must not keep images and other requests waiting.
        waiting = ReentrantCallbackGroup()
        self.create_service(SetVocabulary, "~/set_vocabulary", self._set_vocabulary, callback_group=waiting)
        self.create_service(Query, "~/query", self._query, callback_group=waiting)
        self.create_service(GetVocabulary, "~/get_vocabulary", self._get_vocabulary)
        self.create_service(SetBool, "~/enable", self._enable)

    # Lifecycle

    @property
    def is_loading(self) -> bool:
        """Whether `on_configure` is at work, which a signal may break off."""
        return bool(self._doing)

    def start(self) -> bool:
        """Configures and activates, unless the parameter autostart leaves that to a lifecycle manager."""
        if not self._value("autostart"):
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    @_explained
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and the vocabulary and runs the model once."""
        preset, device = self._value("preset"), self._value("device")
        # Nothing else is served until this is done, so it is said before.
        self._doing = f"loading preset {preset} on device {device}"
        self._diagnostics.publish()
        reason = ""
        try:
            self.pipeline = self._load(preset, device)
        except (OvsegError, ParameterException) as error:
            reason = str(error)
        except Exception as error:  # such as a device that is out of memory
            reason = f"preset {preset!r} on device {device!r}: {describe(error)}"
        finally:
            self._doing = ""
        if self.pipeline is None:
            give_back()
            return self._refuse(reason)
        self._fault = ""
        vocabulary = self.pipeline.vocabulary.current.vocabulary
        self.get_logger().info(
            f"preset {preset} on {self.pipeline.device}, vocabulary of {len(vocabulary.categories)} categories"
        )
        self.get_logger().info(self.pipeline.engine.line)
        return super().on_configure(state)

    @_explained
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publishes from now on, and subscribes where somebody wants what it publishes."""
        try:
            for camera in self._cameras:
                camera.activate()
        except Exception as error:  # such as a qos_overrides parameter that is no QoS; rclpy would swallow it
            self._deactivate()
            return self._refuse(f"the image inputs: {describe(error)}")
        self._is_active, self._fault = True, ""
        self._bond.form()
        self.get_logger().info(f"active; images come from {self._input_topics()}")
        return super().on_activate(state)

    @_explained
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes; publishes nothing more. The model stays."""
        self._deactivate()
        return super().on_deactivate(state)

    @_explained
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model."""
        self.close()
        return super().on_cleanup(state)

    @_explained
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, from any state."""
        self.close()
        self._without_model = "finalized"
        return super().on_shutdown(state)

    @_explained
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, so that the node can be configured again."""
        self.close()
        return super().on_error(state)

    def close(self) -> None:
        """Ends subscriptions, threads and publishers; waits for the frame at hand."""
        self._deactivate()
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None
            give_back()

    def _load(self, preset: str, device: str) -> Pipeline:
        """The model, the vocabulary and the cameras, as the parameters say."""
        # Before the model, which takes its time.
        words, file = self._value("vocabulary"), self._value("vocabulary_file")
        vocabulary = build_vocabulary(self, initial_specs(words, file, self.get_logger().warning))
        cameras, transport = camera_names(self._value("cameras")), self._value("image_transport")
        check_one_type(
            self, {topic: kind for name in cameras for topic, kind in camera_topics(name, transport).items()}
        )
        declare(self, camera_parameters(cameras, self._value("roi")))
        segmenter = self._make_segmenter(preset, device, engine_options(self), self._warn)
        declare(self, merge_parameters(segmenter.merge))
        saved_to = saving_path(self._value("vocabulary_file")) if self._value("save_vocabulary") else None
        return Pipeline(self, segmenter, vocabulary, saved_to, cameras, self._requests.arrived)

    def note_fault(self, reason: str) -> None:
        """A transition failed: in the log now, and in the diagnostics until one succeeds."""
        self._fault = reason
        self._diagnostics.publish()
        if self.context.ok():  # else the process was told to end meanwhile, and that is why
            self.get_logger().fatal(reason)

    def _warn(self, what: str) -> None:
        self.get_logger().warning(what)

    def _refuse(self, reason: str) -> TransitionCallbackReturn:
        self.note_fault(f"cannot start: {reason}")
        return TransitionCallbackReturn.FAILURE

    def _deactivate(self) -> None:
        self._is_active = False
        self._bond.dissolve()
        self._requests.forget()
        for camera in self._cameras:
            camera.deactivate()

    # Diagnostics

    def _statuses(self) -> list[DiagnosticStatus]:
        pipeline = self.pipeline
        resting = self._without_model if pipeline is None else "inactive"
        model = model_status(
            state=self._doing or ("active" if self._is_active else resting),
            preset=self._value("preset"),
            device=str(pipeline.device) if pipeline is not None else self._value("device"),
            engine=pipeline.engine if pipeline is not None else None,
            prompt=pipeline.vocabulary.current if pipeline is not None else None,
            host_memory=host_memory(),
            device_memory=device_memory(pipeline.device) if pipeline is not None else None,
            fault=self._fault,
            warning="; ".join(pipeline.vocabulary.problems()) if pipeline is not None else "",
        )
        return [model, *(camera.status() for camera in self._cameras)]

    # Images

    @property
    def _cameras(self) -> tuple[Camera, ...]:
        return self.pipeline.cameras if self.pipeline is not None else ()

    def _input_topics(self) -> str:
        return " or ".join(topic for camera in self._cameras for topic in camera.inputs.topics)

    def _update(self) -> None:
        self._bond.beat()
        self._requests.expire()
        if self.pipeline is not None:
            self.pipeline.vocabulary.update()
        if not self._is_active:
            return
        for camera in self._cameras:
            camera.update()
            camera.warn()

    # Services

    async def _set_vocabulary(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        if self.pipeline is None:
            response.message = self._refusal("configured", "configure")
            return response
        vocabulary = self.pipeline.vocabulary
        try:
            response = await self._answer(vocabulary.submit(request))
        except Exception as error:  # the answer carries the reason; the node goes on
            response.message = f"the vocabulary stays as it was: {describe(error)}"
            response.version = vocabulary.current.vocabulary.version
        if response.success:
            if self.pipeline is not None:
                self.pipeline.relabel()
            self.get_logger().info(f"vocabulary {response.version}: {len(response.category_ids)} categories")
        else:
            self.get_logger().warning(f"set_vocabulary refused: {response.message}")
        return response

    def _get_vocabulary(
        self, request: GetVocabulary.Request, response: GetVocabulary.Response
    ) -> GetVocabulary.Response:
        if self.pipeline is not None:
            response.vocabulary = self.pipeline.vocabulary.message
        return response

    async def _query(self, request: Query.Request, response: Query.Response) -> Query.Response:
        if self.pipeline is None or not self._is_active:
            return refused_query(self._refusal("active", "activate"))
        pipeline = self.pipeline
        try:
            vocabulary = phrase_vocabulary(request.phrase)
            prompt = await self._answer(pipeline.vocabulary.prepare(vocabulary))  # which may take its time
            frame = await self._requests.newest(pipeline.cameras)
            if frame is None:
                return refused_query(f"no image has come yet on {self._input_topics()}")
            result = await self._answer(pipeline.query(frame, prompt))
            return query_response(result, prompt, frame.header)
        except Exception as error:  # the answer carries the reason; the node goes on
            return refused_query(describe(error))

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter("enabled", value=request.data)])[0]
        response.success = result.successful
        self._update()
        response.message = result.reason or ("enabled" if request.data else "disabled")
        return response

    def _refusal(self, wanted: str, transition: str) -> str:
        """Why a service cannot be had in this state of the lifecycle."""
        if self._without_model == "finalized":
            return "the node was shut down (state finalized), which is for good; end the process and start it again"
        return f"the node is not {wanted}; {transition} it first"

    async def _answer(self, future: "Future[Answer]") -> Answer:
        """Waits for another thread's answer while the executor goes on with other callbacks."""
        executor = self.executor
        done: RosFuture = RosFuture(executor=executor)

        def wake(_: object) -> None:
            done.set_result(None)
            if executor.context.ok():
                executor.wake()

        future.add_done_callback(wake)
        await done
        return future.result()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def _build_segmenter(
    preset: str, device: str, options: EngineOptions, tell: Callable[[str], None]
) -> "PanopticSegmenter":
    # Imported when needed, which takes seconds: mistakes in parameters and vocabulary show before that.
    import torch

    from ovseg_ros.core.build import build_segmenter

    # In this thread, so that a signal breaks it off; without helpers, which would stay and slow the worker's down (see
    # `in_own_thread`).
    helpers = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return build_segmenter(preset, device, replace(options, threads=helpers), tell)
    finally:
        torch.set_num_threads(helpers)


def main(args: list[str] | None = None) -> None:
    """Runs the node until SIGINT or SIGTERM. Exits with 1 where it cannot start."""
    run_node(SegmentNode, "ovseg", args)
